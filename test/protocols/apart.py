"""What contexts with an interpreter of their own keep apart, and what they may leave running."""

import _thread
import concurrent.futures
import mmap
import os
import sys
import threading
import time

import erlang
import erlang.reactor as reactor

count = 0
kept = []
pool = concurrent.futures.ThreadPoolExecutor()


def count_up():
    global count
    count += 1
    return count


def count_up_and_tell_when():
    """The time of all interpreters when it ran."""
    count_up()
    return time.monotonic()


def spin(told, over, most_seconds):
    """Computes until the file says "y", and lets nobody else have the GIL from when the process is told.

    Returns the time when that was over.
    """
    interval = sys.getswitchinterval()
    with open(over, "rb") as file:
        # To look at memory does not let go of the GIL.
        letter = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
    sys.setswitchinterval(1000)
    try:
        # Those who waited before have asked for it by then, and wait as long as that now.
        _compute(letter, 0.1)
        erlang.send(told, "begun")
        return _compute(letter, most_seconds)
    finally:
        sys.setswitchinterval(interval)


def _compute(letter, most_seconds):
    until = time.monotonic() + most_seconds
    while time.monotonic() < until and letter[0] != ord("y"):
        pass
    # Not the time before the last look: that may be long ago.
    return time.monotonic()


def leave_thread_behind():
    """A thread that nobody knows of, and that ends when nobody expects it."""
    _thread.start_new_thread(time.sleep, (1000,))


def start_pool():
    return pool.submit(threading.get_ident).result() != threading.get_ident()


def start_thread():
    threading.Thread(target=time.sleep, args=(0.2,)).start()


def stay_while_there_is(path):
    def stay():
        while os.path.exists(path):
            time.sleep(0.05)

    threading.Thread(target=stay).start()


class Keeper(reactor.Protocol):
    """Keeps all that it receives, and echoes by way of another thread."""

    def data_received(self, data):
        kept.append((self, data, memoryview(data)))
        self.write(data)
        pool.submit(reactor.signal_write_ready, self.fd)
        return "async_pending"

    def write_ready(self):
        return "read_pending"
