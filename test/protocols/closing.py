"""Protocols for the end of connections."""

import threading

import erlang.reactor as reactor
from recorder import Recording, protocol

_local = threading.local()


class WholeBuffer(Recording):
    """Two megabytes through write_buffer, many times the high-water mark; then the end."""

    def data_received(self, data):
        self.write_buffer.extend(b"0123456789" * 200000)
        return "write_pending"

    def write_ready(self):
        return "close" if super().write_ready() == "read_pending" else "continue"


class NeverGivesUp(Recording):
    """Writes for ever, and answers client_info["answer"] whatever write() says."""

    def data_received(self, data):
        self.full = False
        return "write_pending"

    def write_ready(self):
        if self.write(b"x" * 100000) < 100000:
            self.full = True
        return self.client_info["answer"]


def is_full(tag):
    return getattr(protocol(tag), "full", False)


class Counts(reactor.Protocol):
    """Counts by thread, which is by context."""

    def connection_made(self, fd, client_info):
        _local.made = getattr(_local, "made", 0) + 1

    def connection_lost(self):
        _local.lost = getattr(_local, "lost", 0) + 1


def counts_of_this_context():
    return [_local.made, _local.lost]
