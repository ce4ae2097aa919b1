"""Code that logs."""

import logging
import threading

_log = logging.getLogger("test.logs")
_log.setLevel(logging.DEBUG)


def say(level, text):
    _log.log(getattr(logging, level.upper()), text)


def fail():
    try:
        1 / 0
    except ZeroDivisionError:
        _log.exception("it failed")


def say_in_a_thread(text):
    thread = threading.Thread(target=say, args=("warning", text))
    thread.start()
    thread.join()


def flood(count):
    for number in range(count):
        _log.warning("flood %d", number)


def printed(text):
    print(text)


def print_much(count):
    for number in range(count):
        print("flood", number)
    _log.warning("that was much")
