"""What a program leaves to its end: functions of atexit, buffered files, a line without an end."""

import atexit
import gc
import gzip
import logging
import logging.handlers
import os
import sys
import tempfile
import threading
import time

_kept = []


def prepare(directory):
    """Answers the names of what is to be there in the end, with what is to be in it; "" where nothing is to be there."""

    def path(name):
        return os.path.join(directory, name)

    def write(name, text):
        with open(path(name), "w") as file:
            file.write(text)

    atexit.register(write, "atexit", "ran")
    atexit.register(_fail)
    atexit.register(write, "before the failure", "ran")

    buffered = open(path("buffered"), "w")
    buffered.write("of a module")
    zipped = gzip.open(path("zipped"), "wt")
    zipped.write("of a module")
    below = open(path("binary"), "wb", buffering=1 << 20)
    below.write(b"binary")
    _InACircle(path("circle"))
    temporary = tempfile.TemporaryDirectory(dir=directory)
    handler = logging.handlers.MemoryHandler(1000, target=logging.FileHandler(path("log"), delay=True))
    handler.emit(logging.makeLogRecord({"msg": "the last record", "levelno": logging.INFO}))
    _kept.extend([buffered, zipped, below, temporary, handler])
    print("the last", "words", end="")
    return {
        "atexit": "ran",
        "before the failure": "ran",
        "buffered": "of a module",
        "binary": "binary",
        "circle": "of nobody",
        "log": "the last record\n",
        os.path.basename(temporary.name): "",
    }


class _InACircle:
    """Its destructor runs when it is collected."""

    def __init__(self, path):
        self.me, self.path = self, path

    def __del__(self, open=open):
        with open(self.path, "w") as file:
            file.write("of nobody")


def _fail():
    raise ValueError("at the end")


def prepare_endless(directory):
    """The functions run in reverse order."""

    def write(name):
        with open(os.path.join(directory, name), "w") as file:
            file.write("ran")

    def endless():
        write("begun")
        while True:
            time.sleep(0.001)

    atexit.register(write, "after")
    atexit.register(endless)


def unzip(path):
    """What is in the file, as far as it goes: it has no end."""
    text = b""
    with gzip.open(path) as file:
        try:
            while piece := file.read(1):
                text += piece
        except EOFError:
            pass
    return text


class Garbage:
    def __init__(self):
        self.me = self

    def __del__(self):
        print("gone")


def print_in_destructors(count):
    """Answers what went wrong."""
    wrong = []
    sys.unraisablehook = lambda raised: wrong.append(repr(raised.exc_value))
    before = gc.get_threshold()
    for threshold in range(1, 7):
        gc.set_threshold(threshold)
        try:
            for number in range(count):
                Garbage()
                print("line", number, file=sys.stderr if number % 5 == 4 else sys.stdout)
        finally:
            gc.set_threshold(*before)
    gc.collect()
    sys.unraisablehook = sys.__unraisablehook__
    return wrong


def print_in_threads(count):
    """With destructors that print, too."""
    threads = [threading.Thread(target=print_in_destructors, args=(count,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # While one of them collected, others could not.
    gc.collect()
