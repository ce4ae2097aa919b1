"""What contexts with an interpreter of their own keep apart, and what they may leave running."""

import _thread
import concurrent.futures
import os
import sys
import threading
import time

import erlang.reactor as reactor

count = 0
kept = []
pool = concurrent.futures.ThreadPoolExecutor()


def count_up():
    global count
    count += 1
    return count


def spin(seconds):
    """Computes, and lets nobody else have the GIL meanwhile."""
    sys.setswitchinterval(1000)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    sys.setswitchinterval(0.005)
    return True


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
