"""What runs as an interpreter ends, and starts threads."""

import _thread
import atexit
import concurrent.futures
import os
import sys
import threading


def _write(path, outcome):
    """Atomically, as far as a reader can see: whatever is there is whole."""
    with open(path, "w") as file:
        file.write(outcome)


def _try(path, start):
    """From 3.12 on, CPython refuses earlier than 3.11, where a thread of `atexit` is waited for."""
    try:
        start()
    except RuntimeError:
        _write(path, "refused")


def in_atexit(path):
    def late():
        try:
            threading.Thread(target=_write, args=(path, "done")).start()
        except RuntimeError:
            _write(path, "done")

    atexit.register(late)


def in_atexit_by_an_executor(path):
    pool = concurrent.futures.ThreadPoolExecutor(1)
    atexit.register(_try, path, lambda: pool.submit(print))


class _Late:
    """Starts a thread in its destructor, when nothing may be left of the modules."""

    def __init__(self, path, start):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._all = (fd, start, os.write, os.close, (RuntimeError, TypeError, AttributeError))

    def __del__(self):
        fd, start, write, close, errors = self._all
        try:
            start()
            write(fd, b"started")
        except errors:
            write(fd, b"refused")
        close(fd)


def in_a_destructor(path):
    sys.modules["a holder"] = _Late(path, threading.Thread(target=print).start)


def in_a_destructor_by_hand(path):
    start = _thread.start_new_thread
    sys.modules["a holder"] = _Late(path, lambda: start(print, ()))


def never(path):
    def spin():
        open(path, "x").close()
        while True:
            pass

    atexit.register(spin)
