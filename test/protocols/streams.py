"""Protocols that move more than a few bytes."""

import array
import asyncio
import hashlib
import threading
import time

import erlang.reactor as reactor
from recorder import Recording, note, protocol

_calls = {}
_stopped = set()
# By thread, which is by context.
_here = threading.local()


def calls(tag):
    return _calls.get(tag, 0)


def stop(tag):
    _stopped.add(tag)


class WritesUntilTold(Recording):
    """In write mode from the first data until stop(tag), with nothing to write."""

    def data_received(self, data):
        note(self.tag, "data_received", bytes(data))
        return "continue" if self.tag in _stopped else "write_pending"

    def write_ready(self):
        _calls[self.tag] = calls(self.tag) + 1
        return "read_pending" if self.tag in _stopped else "continue"


class Counting(Recording):
    """Keeps the base class's eof_received."""

    eof_received = reactor.Protocol.eof_received

    def data_received(self, data):
        note(self.tag, "data_received", len(data))
        return "continue"


class AnswersAtTheEnd(Recording):
    """Collects everything, and sends it back once the client sends no more."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.request = bytearray()

    def data_received(self, data):
        self.request.extend(data)
        return "continue"

    def eof_received(self):
        self.write_buffer.extend(self.request)
        return "write_pending"


class EndsItsOutput(Recording):
    """Answers the first data with much, ends its output, and goes on reading; at the end says why it was."""

    ended = False

    def data_received(self, data):
        note(self.tag, "data_received", bytes(data))
        if not self.ended:
            self.ended = True
            note(self.tag, "written", self.write(bytes(200_000)))
            self.write_eof()
            self.write_eof()
            note(self.tag, "written", self.write(b"in vain"))
            self.write_buffer.extend(b"in vain, too")
        return self.client_info.get("answer", "continue")

    def eof_received(self):
        note(self.tag, "eof_received")
        return "async_pending"

    def connection_lost(self):
        note(self.tag, "reason", self.close_reason)
        super().connection_lost()


class Echo(reactor.Protocol):
    """The smallest protocol: data_received alone, and the base class does the rest."""

    def data_received(self, data):
        self.write_buffer.extend(data)
        return "write_pending"


class EchoByHand(reactor.Protocol):
    """An echo that never touches write_buffer."""

    def connection_made(self, fd, client_info):
        self.rest = b""

    def data_received(self, data):
        self.rest = data
        return "write_pending"

    def write_ready(self):
        written = self.write(self.rest)
        self.rest = self.rest[written:]
        return "continue" if self.rest else "read_pending"


class Download(Recording):
    """Asked for a number of bytes, writes them all and closes. Each 4 bytes are a number, so order shows."""

    def data_received(self, data):
        if not hasattr(self, "left"):
            size = int(data.split()[0])
            self.left = memoryview(array.array("I", range(size // 4))).cast("B")
            self.accepted = []
        return "write_pending"

    def write_ready(self):
        written = self.write(self.left)
        self.accepted.append(written)
        self.left = self.left[written:]
        return "continue" if self.left else "close"


def accepted(tag):
    return protocol(tag).accepted


def digest_of_numbers(size):
    return hashlib.sha256(array.array("I", range(size // 4)).tobytes()).hexdigest()


class AnswersInTurns(Recording):
    """Answers each piece with a page, slowly if it was told so, and says how much it has got between two turns of its loop."""

    how = b""
    calls = bytes = most_bytes = 0

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.calls_of_turns = []

    def data_received(self, data):
        if not self.how:
            self.how = b"%b" % data
            self.write(self.how)
            return "continue"
        if not self.calls:
            asyncio.get_running_loop().call_soon(self.has_turned)
        self.calls += 1
        self.bytes += len(data)
        if self.how == b"slowly":
            time.sleep(0.005)
        self.write(b"." * 4096)
        return "continue"

    def has_turned(self):
        self.calls_of_turns.append(self.calls)
        self.most_bytes = max(self.most_bytes, self.bytes)
        self.calls = self.bytes = 0


class PingOrSlow(reactor.Protocol):
    """Sends a ping back at once, or how many calls there have been; takes a millisecond for anything else."""

    def data_received(self, data):
        _here.calls = getattr(_here, "calls", 0) + 1
        if data == b"ping":
            self.write(data)
        elif data == b"count":
            self.write(b"%08d" % _here.calls)
        else:
            time.sleep(0.001)
        return "continue"
