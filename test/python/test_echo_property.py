"""However a stream is cut into messages, the echo of it is the stream."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from erlang import reactor


class Echo(reactor.Protocol):
    def data_received(self, data):
        self.write_buffer += data
        return "write_pending"


@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=20), st.integers(1, 4000))
def test_echo(messages, window):
    here, peer = socket.socketpair()
    with here, peer:
        here.setblocking(False)
        peer.setblocking(False)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        reactor.set_protocol_factory(Echo)
        fd = here.fileno()
        reactor.init_connection(fd, {})
        got = bytearray()
        for message in messages:
            assert peer.send(message) == len(message)
            assert reactor.on_read_ready(fd) == "write_pending"
            while reactor.on_write_ready(fd) != "read_pending":
                got += peer.recv(window)
        reactor.close_connection(fd)
        here.shutdown(socket.SHUT_WR)
        while piece := peer.recv(window):
            got += piece
    assert got == b"".join(messages)
