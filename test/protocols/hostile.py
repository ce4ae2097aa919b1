"""Protocols, and objects that are none, which no user should write and no context may die of."""

import os
import subprocess

import erlang.reactor as reactor
import recorder
from recorder import Recording


class ForgedBytes(bytes):
    """Says that it is a Protocol; its memory is another thing's."""

    @property
    def __class__(self):
        return reactor.Protocol


class ForgedSlots:
    """The same, with no memory at all."""

    __slots__ = ()

    @property
    def __class__(self):
        return reactor.Protocol


def raising_factory():
    raise RuntimeError("no protocol today")


class Later(Recording):
    """Answers when it is signalled."""

    def data_received(self, data):
        super().data_received(data)
        return "async_pending"


class SignalsTooEarly(Later):
    """Signals where nothing waits yet; that is not kept for when something does."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        reactor.signal_write_ready(fd)


class OwnWriteReady(Recording):
    """Puts its own write_ready into the instance."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.write_ready = self.mine

    def mine(self):
        self.write(b"mine")
        return "close"


class OwnWrite(Recording):
    """Puts its own write into the instance, and lets the inherited write_ready use it."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.write = self.mine

    def data_received(self, data):
        self.write_buffer += data
        return "write_pending"

    def write_ready(self):
        return super().write_ready()

    def mine(self, data):
        return reactor.Protocol.write(self, data.upper())


class SlowFlood(Recording):
    """Takes its time, then writes more than a pipe holds."""

    def write_ready(self):
        recorder.note(self.tag, "write_ready")
        recorder._released[self.tag].wait(30)
        self.write(bytes(200_000))
        return "continue"


def read_hugely():
    """On a pipe, by hand, with a size that no machine has."""
    reader, writer = os.pipe()
    os.write(writer, b"there")
    protocol = reactor.Protocol()
    protocol.fd = reader
    data = protocol.read(1 << 46)
    os.close(reader)
    os.close(writer)
    return data


_pipes = {}


def read_blockingly(name):
    """On an empty pipe, until somebody writes."""
    reader, writer = os.pipe()
    protocol = reactor.Protocol()
    protocol.fd = reader
    _pipes[name] = writer
    return protocol.read(10)


def is_waiting(name):
    return name in _pipes


def unblock(name):
    os.write(_pipes[name], b"at last")


def terminate_a_child():
    """Whether a child ends that is told to. (Its status is not known: the VM ignores SIGCHLD.)"""
    child = subprocess.Popen(["sleep", "600"])
    child.terminate()
    try:
        child.wait(timeout=30)
    except subprocess.TimeoutExpired:
        child.kill()
        return False
    return True


def signal_many(busy, times, waiting):
    """Many signals to one connection, then one to another, from the context's own thread."""
    for _ in range(times):
        recorder.signal(busy)
    return recorder.signal(waiting)


class _Changes(int):
    """Changes the dict that is being converted."""

    target = None

    def __lt__(self, other):
        self.target[len(self.target)] = 0
        return int(self) < other


def changing_dict():
    value = _Changes(1 << 80)
    _Changes.target = {"one": value, "two": value}
    return _Changes.target


def doubling(times):
    """Small in Python, which shares it; large where every part is a copy."""
    value = [0]
    for _ in range(times):
        value = [value, value]
    return value
