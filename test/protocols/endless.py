"""Callbacks and functions that take their time, or for ever."""

import asyncio
import time

import recorder


def _spin(flag):
    """The context cannot be asked meanwhile, so a file says that it has come so far."""
    open(flag, "x").close()
    while True:
        pass


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


class Slow(recorder.Recording):
    """Sleeps as long as it is told."""

    def data_received(self, data):
        time.sleep(float(bytes(data)))
        self.write(b"awake")
        return "continue"


def spin():
    while True:
        pass


def stubborn():
    """Lets nothing but a BaseException pass."""
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


async def spin_async():
    while True:
        await asyncio.sleep(0)


def sleep_and_go_on(seconds):
    time.sleep(seconds)
    return "went on"
