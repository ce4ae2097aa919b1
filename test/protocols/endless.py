"""Callbacks and functions that take their time, or for ever."""

import asyncio
import logging
import os
import sys
import time

import erlang
import erlang.reactor as reactor
import recorder


def _spin(flag):
    """The context cannot be asked meanwhile, so a file says that it has come so far; and a line, what is told of it later."""
    logging.warning("spins")
    open(flag, "x").close()
    while True:
        pass


def spin_with_the_lock_of_imports(flag):
    """An interrupt comes when the import system has just taken it."""
    import _imp

    _imp.acquire_lock()
    _spin(flag)


def traced():
    sys.settrace(lambda *_: None)
    try:
        return (lambda: 2)()
    finally:
        sys.settrace(None)


class Endless(recorder.Recording):
    """Each callback that is named by client_info["endless"] does not return; else an echo."""

    def _begin(self, method):
        if self.client_info["endless"] == method:
            _spin(self.client_info["flag"])

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self._begin("connection_made")

    def data_received(self, data):
        self._begin("data_received")
        self.write_buffer += data
        return "write_pending"

    def write_ready(self):
        self._begin("write_ready")
        return super().write_ready()

    def message_received(self, message):
        self._begin("message_received")
        return "continue"

    def eof_received(self):
        self._begin("eof_received")
        return "close"

    def connection_lost(self):
        self._begin("connection_lost")
        super().connection_lost()


class EndlessTask(recorder.Recording):
    """A step of its callback does not return if client_info["flag"] says so; else an echo."""

    async def data_received(self, data):
        await asyncio.sleep(0)
        if self.client_info["flag"] is not None:
            _spin(self.client_info["flag"])
        self.write(data)
        return "continue"


class Sticky(asyncio.Future):
    """The first time it is told of its result, that does not return."""

    flag = None

    def set_result(self, result):
        if self.flag is not None:
            flag, self.flag = self.flag, None
            _spin(flag)
        super().set_result(result)


async def ask_erlang(name, flag):
    loop = asyncio.get_running_loop()
    future = Sticky(loop=loop)
    future.flag = flag
    loop.create_future = lambda: future
    try:
        asked = asyncio.create_task(erlang.call_async(name, 7, timeout=None))
        await asyncio.sleep(0)
    finally:
        del loop.create_future
    return await asked


# A callback of asyncio's own, that takes its time.
_tell = """
def tell(future, begun, go):
    open(begun, "x").close()
    while not access(go, 0):
        pass
    future.set_result("told")
"""


async def told_by_asyncio(begun, go):
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    asyncios = {"__name__": "asyncio.futures", "access": os.access}
    exec(_tell, asyncios)
    loop.call_soon(asyncios["tell"], future, begun, go)
    return await future


async def spun_by_asyncio(flag):
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    asyncios = {"__name__": "asyncio.futures", "access": lambda *_: _spin(flag)}
    exec(_tell, asyncios)
    loop.call_soon(asyncios["tell"], future, flag + ".begun", "")
    loop.call_later(0.001, future.set_result, "told")
    return await future


async def spin_in_a_step(flag):
    await asyncio.sleep(0)
    _spin(flag)


def spawn_spin(flag):
    reactor.spawn(spin_in_a_step(flag))


class _Endless:
    """Does not return from one of its methods, once."""

    def __init__(self, flag, base=None):
        self._flag = flag

    def _spin(self):
        if self._flag:
            flag, self._flag = self._flag, None
            _spin(flag)


class NoText(_Endless, Exception):
    def __str__(self):
        self._spin()
        return "text"


class NoEnd(_Endless):
    def __del__(self):
        self._spin()


class NoEndBytes(NoEnd, bytearray):
    def __new__(cls, flag):
        return bytearray.__new__(cls)


class NoClass(_Endless):
    """Whoever converts it asks for its class."""

    @property
    def __class__(self):
        self._spin()
        return object


def no_text(flag):
    raise NoText(flag)


def no_result(flag):
    return [NoClass(flag)]


def no_end(flag):
    return NoEnd(flag)


class Unending(reactor.Protocol):
    """What is left of a callback does not return: told by client_info["kind"]."""

    def data_received(self, data):
        kind, flag = self.client_info["kind"], self.client_info.get("flag")
        if kind == "text":
            raise NoText(flag)
        if kind == "answer":
            return NoEnd(flag)
        if kind == "instance":
            self.kept = NoEnd(flag)
            return "close"
        if kind == "client_info":
            self.client_info["kept"] = NoEnd(flag)
            return "close"
        if kind == "write_buffer":
            self.write_buffer = NoEndBytes(flag)
            return "close"
        if kind == "message":
            reactor.notify(self.fd, NoEnd(flag))
            return "close"
        self.write(data)
        return "continue"


class Slow(recorder.Recording):
    """Sleeps until there is the file that it is told."""

    def data_received(self, data):
        path = bytes(data)
        logging.warning("sleeps")
        while not os.path.exists(path):
            time.sleep(0.01)
        self.write(b"awake")
        return "continue"


def _runs(flag):
    """An interrupt that comes before the function does may find nothing to end."""
    if flag is not None:
        open(flag, "x").close()


def spin(flag=None):
    _runs(flag)
    while True:
        pass


def stubborn(flag=None):
    """Lets nothing but a BaseException pass."""
    _runs(flag)
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


async def spin_async(flag=None):
    _runs(flag)
    while True:
        await asyncio.sleep(0)


def read_and_go_on(fd, flag):
    _runs(flag)
    os.read(fd, 1)
    return "went on"
