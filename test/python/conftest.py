"""Fixtures: a fresh reactor for every test, and connections over socket pairs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from erlang import _by_hand, reactor

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")

INFO = {"addr": "127.0.0.1", "port": 4711, "type": "tcp"}


@pytest.fixture(autouse=True)
def fresh_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    """No factory and no connections, whatever the last test left."""
    monkeypatch.setattr(reactor, "_factory", None)
    monkeypatch.setattr(_by_hand, "connections", {})


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected stream pair, both ends non-blocking: the server's end, the peer's end."""
    here, peer = socket.socketpair()
    with here, peer:
        here.setblocking(False)
        peer.setblocking(False)
        yield here, peer


class Connection:
    """A protocol served by hand, and the socket of its peer."""

    def __init__(self, proto: Any, here: socket.socket, peer: socket.socket) -> None:
        self.proto, self.here, self.peer = proto, here, peer
        self.fd = proto.fd

    def read(self, sent: bytes | None = None) -> str:
        """The peer sends; the descriptor is readable."""
        if sent is not None:
            assert self.peer.send(sent) == len(sent)
        return reactor.on_read_ready(self.fd)

    def write(self) -> str:
        """The descriptor is writable."""
        return reactor.on_write_ready(self.fd)

    def received(self) -> bytes:
        """What the peer can read now."""
        try:
            return self.peer.recv(1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def connect(pair: tuple[socket.socket, socket.socket]) -> Callable[..., Connection]:
    """connect(factory=None): serve the pair; without a factory, with the one already set."""

    def connect(factory: Callable[[], Any] | None = None) -> Connection:
        if factory is not None:
            reactor.set_protocol_factory(factory)
        here, peer = pair
        return Connection(reactor.init_connection(here.fileno(), INFO), here, peer)

    return connect
