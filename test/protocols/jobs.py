"""Functions that Erlang calls."""

import asyncio
import concurrent.futures
import sqlite3
import threading

from recorder import Recording

counts = {}
_waiting = {}
_appended = {}
_local = threading.local()


class Failure(Exception):
    pass


class Unshowable(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


def arguments(*args, **kwargs):
    return [list(args), kwargs]


def fails_deep_inside(depth):
    if depth:
        return fails_deep_inside(depth - 1)
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise Failure("deep inside") from error


def raises_unshowable():
    raise Unshowable


def recurse():
    return recurse()


def wait_for(name):
    """Blocks this thread, but not Python, until let_go(name)."""
    event = _waiting.setdefault(name, threading.Event())
    event.wait()
    return "done"


def is_waiting(name):
    return name in _waiting


def let_go(name):
    _waiting.pop(name).set()


def append(name, value):
    _appended.setdefault(name, []).append(value)


def appended(name):
    return _appended.get(name, [])


async def _square(number):
    await asyncio.sleep(0)
    return number * number


async def gather_squares(numbers):
    return await asyncio.gather(*(_square(number) for number in numbers))


async def fails_async():
    await asyncio.sleep(0)
    raise Failure("later")


async def cancelled_async():
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


def squares_by_threads(count):
    squares = [None] * count

    def compute(number):
        squares[number] = number * number

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return squares


def squares_by_pool(count):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda number: number * number, range(count)))


def count_in_background(name):
    def count():
        pause = threading.Event()
        for number in range(100):
            pause.wait(0.001)
            counts[name] = number + 1

    counts[name] = 0
    threading.Thread(target=count).start()


def thread():
    if not hasattr(_local, "database"):
        _local.database = sqlite3.connect(":memory:")
        _local.database.execute("create table t (text)")
        _local.database.execute("insert into t values ('row')")
    return threading.get_ident()


class OnOneThread(Recording):
    def data_received(self, data):
        (row,) = _local.database.execute("select text from t").fetchone()
        self.write(f"{threading.get_ident()} {row}".encode())
        return "continue"
