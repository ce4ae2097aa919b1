"""A collector that runs often and lets others run meanwhile, as it does by destructors; and threads that end all the time."""

import gc
import threading
import time

import endless

_ended = threading.Event()


_known = set()


def _lets_others_run(phase, info):
    # While one thread collects, no other does: it is to be whoever looks at them.
    if threading.get_ident() not in _known:
        time.sleep(0.002)


def start():
    _known.add(threading.get_ident())
    for function in [_starts] * 2 + [_waits] * 6:
        threading.Thread(target=function).start()
    gc.callbacks.append(_lets_others_run)
    gc.set_threshold(3)


def _starts():
    _known.add(threading.get_ident())
    while not _ended.is_set():
        thread = threading.Thread(target=_nothing)
        thread.start()
        thread.join()


def _waits():
    _known.add(threading.get_ident())
    # Each time, it has frames that nobody has seen.
    while not _ended.wait(0.001):
        pass


def _nothing():
    pass


def stop():
    gc.set_threshold(700)
    gc.callbacks.remove(_lets_others_run)
    _ended.set()


async def spun_by_asyncio(flag):
    return await endless.spun_by_asyncio(flag)
