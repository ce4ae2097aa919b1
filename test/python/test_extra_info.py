"""get_extra_info: asyncio's names, over duplicates."""

from __future__ import annotations

import os
import socket

import pytest

from erlang import reactor


class Data(reactor.Protocol):
    def data_received(self, data):
        return "continue"


@pytest.fixture
def tcp():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        here, _ = listening.accept()
    with here, peer:
        yield here, peer


def served(here, **info):
    reactor.set_protocol_factory(Data)
    return reactor.init_connection(here.fileno(), info)


def test_addresses(tcp):
    here, peer = tcp
    proto = served(here)
    assert proto.get_extra_info("sockname") == here.getsockname()
    assert proto.get_extra_info("peername") == peer.getsockname()
    proto.close()
    assert proto.get_extra_info("sockname") == here.getsockname(), "what was asked before is known for ever"


def test_the_peer_of_a_connection_that_is_gone_as_it_was_told(tcp):
    proto = served(tcp[0], addr="127.0.0.1", port=5)
    proto.close()
    assert proto.get_extra_info("peername") == ("127.0.0.1", 5)
    assert proto.get_extra_info("sockname", "unknown") == "unknown"
    assert proto.get_extra_info("socket") is None


def test_the_peer_of_an_ipv6_connection_that_is_gone(tcp):
    proto = served(tcp[0], addr="fe80::1", port=5, scope_id=3)
    proto.close()
    assert proto.get_extra_info("peername") == ("fe80::1", 5, 0, 3)


def test_the_socket_is_ones_own(tcp):
    here, peer = tcp
    proto = served(here)
    sock = proto.get_extra_info("socket")
    assert isinstance(sock, socket.socket)
    assert sock.fileno() != here.fileno()
    assert sock is proto.get_extra_info("socket")
    assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert here.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    sock.close()
    assert proto.write(b"x") == 1
    assert peer.recv(1) == b"x"
    again = proto.get_extra_info("socket")
    assert again is not sock and again.fileno() >= 0
    proto.close()
    assert again.fileno() == -1, "closed once connection_lost has returned"
    assert proto.get_extra_info("socket") is again


def test_unix_sockets(pair):
    proto = served(pair[0], type="unix")
    assert proto.get_extra_info("socket").family == socket.AF_UNIX
    assert proto.get_extra_info("pipe") is None
    assert proto.get_extra_info("peername", "unnamed") == "unnamed"
    proto.close()


def test_a_pipe():
    readable, writable = os.pipe()
    try:
        reactor.set_protocol_factory(Data)
        ends = [reactor.init_connection(fd, {"type": "pipe"}) for fd in (readable, writable)]
        pipes = [proto.get_extra_info("pipe") for proto in ends]
        assert [(pipe.readable(), pipe.writable()) for pipe in pipes] == [(True, False), (False, True)]
        assert ends[0].get_extra_info("socket") is ends[0].get_extra_info("peername") is None
        for proto in ends:
            proto.close()
        assert all(pipe.closed for pipe in pipes)
    finally:
        os.close(readable)
        os.close(writable)


@pytest.mark.parametrize("name", ["cipher", "", "fd"])
def test_other_names(connect, name):
    assert connect(Data).proto.get_extra_info(name, default=5) == 5


def test_without_a_connection():
    assert Data().get_extra_info("socket", 5) == 5
    assert Data().get_extra_info("peername") is None
