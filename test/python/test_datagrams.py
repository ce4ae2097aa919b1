"""Datagrams on a descriptor that is driven by hand."""

from __future__ import annotations

import socket

import pytest

from erlang import reactor


class Echo(reactor.Protocol):
    def data_received(self, data: bytes) -> str:
        self.write(b"got " + data)
        return "continue"


def test_the_default_passes_the_data_on() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        reactor.set_protocol_factory(Echo)
        protocol = reactor.init_connection(ours.fileno(), {"type": "unix"})
        assert protocol.datagram_received(reactor.ReactorBuffer(b"one"), None) == "continue"
        assert theirs.recv(100) == b"got one"
        reactor.close_connection(ours.fileno())


def test_sendto_names_its_destination() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        theirs.bind(("127.0.0.1", 0))
        reactor.set_protocol_factory(Echo)
        protocol = reactor.init_connection(ours.fileno(), {"type": "udp"})
        assert protocol.sendto(b"hello", theirs.getsockname()) == 5
        assert theirs.recv(100) == b"hello"
        reactor.close_connection(ours.fileno())
        assert protocol.sendto(b"late", theirs.getsockname()) == 0


def test_text_is_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        reactor.set_protocol_factory(Echo)
        protocol = reactor.init_connection(ours.fileno(), {})
        with pytest.raises(TypeError):
            protocol.sendto("text")  # type: ignore[arg-type]
        reactor.close_connection(ours.fileno())


@pytest.mark.parametrize("addr", [(), ("127.0.0.1",), [], 5, ("127.0.0.1", "1"), (1, 2)], ids=repr)
def test_sendto_no_address(addr: object) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        reactor.set_protocol_factory(Echo)
        protocol = reactor.init_connection(ours.fileno(), {})
        with pytest.raises(TypeError):
            protocol.sendto(b"x", addr)
        # Out of range, as `socket` says itself, or no number.
        with pytest.raises((ValueError, OverflowError)):
            protocol.sendto(b"x", ("127.0.0.1", 65536))
        protocol.close()
