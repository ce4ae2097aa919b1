"""The base class: attributes, read, write, the write_ready that drains write_buffer."""

from __future__ import annotations

import array
import os
import socket

import pytest

from erlang import reactor


class Data(reactor.Protocol):
    def data_received(self, data):
        return "continue"


def test_a_new_protocol():
    proto = reactor.Protocol()
    assert (proto.fd, proto.client_info, proto.write_buffer, proto.closed) == (-1, {}, b"", False)
    assert type(proto.write_buffer) is bytearray
    other = reactor.Protocol()
    assert proto.write_buffer is not other.write_buffer
    assert proto.client_info is not other.client_info


def test_a_subclass_that_calls_no_super():
    class Custom(reactor.Protocol):
        def __init__(self, one, *, two):
            self.one, self.two = one, two

    proto = Custom(1, two=2)
    assert (proto.one, proto.two, proto.fd, proto.write_buffer) == (1, 2, -1, b"")


def test_arguments_that_nobody_takes():
    with pytest.raises(TypeError):
        Data("one too many")


def test_a_mixin_is_initialised():
    class Mixin:
        def __init__(self):
            self.mixed = True

    class Both(reactor.Protocol, Mixin):
        pass

    assert Both().mixed


def test_write_buffer_is_a_bytearray():
    proto = Data()
    mine = bytearray(b"mine")
    proto.write_buffer = mine
    assert proto.write_buffer is mine
    proto.write_buffer += b" too"
    assert mine == b"mine too"
    for wrong in (b"bytes", None, "text", []):
        proto.write_buffer = wrong
        with pytest.raises(TypeError, match=f"write_buffer must be a bytearray, not {type(wrong).__name__}"):
            proto.write_ready()


def test_base_connection_made(pair):
    proto = reactor.Protocol()
    proto.connection_made(7, {"addr": "x"})
    assert (proto.fd, proto.client_info) == (7, {"addr": "x"})


def test_defaults_of_the_other_callbacks(connect):
    conn = connect(Data)
    assert conn.proto.eof_received() == "close"
    assert conn.proto.connection_lost() is None
    assert conn.write() == "read_pending"


def test_read(connect):
    conn = connect(Data)
    assert conn.proto.read() is None
    conn.peer.send(b"hello")
    assert conn.proto.read(2) == b"he"
    assert conn.proto.read(size=100) == b"llo"
    assert conn.proto.read() is None
    conn.peer.close()
    assert conn.proto.read() == b""


@pytest.mark.parametrize("size", [0, -1])
def test_read_of_no_bytes(connect, size):
    with pytest.raises(ValueError, match="must be positive"):
        connect(Data).proto.read(size)


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"bytearray"), b"bytearray"),
        (memoryview(b"a view")[2:], b"view"),
        (reactor.ReactorBuffer(b"buffer"), b"buffer"),
        (array.array("H", [1, 2]), array.array("H", [1, 2]).tobytes()),
        (memoryview(array.array("I", [3])), array.array("I", [3]).tobytes()),
        (b"", b""),
    ],
    ids=repr,
)
def test_write(connect, data, sent):
    conn = connect(Data)
    assert conn.proto.write(data) == len(sent)
    assert conn.received() == sent


@pytest.mark.parametrize("data", ["text", None, 5, [1]], ids=repr)
def test_write_what_is_not_bytes(connect, data):
    with pytest.raises(TypeError):
        connect(Data).proto.write(data)


def test_write_of_a_view_with_gaps(connect):
    with pytest.raises(BufferError):
        connect(Data).proto.write(memoryview(b"abcd")[::2])


def test_a_closed_protocol_reaches_no_descriptor(connect):
    conn = connect(Data)
    conn.peer.send(b"unread")
    reactor.close_connection(conn.fd)
    assert conn.proto.fd == conn.fd
    assert conn.proto.write(b"stray") == 0
    assert conn.proto.read() == b""
    assert conn.received() == b""
    assert conn.here.recv(100) == b"unread"


def test_a_protocol_that_never_had_a_connection():
    assert Data().write(b"x") == 0
    assert Data().read() == b""


@pytest.mark.parametrize("answer", ["continue", "write_pending"])
def test_a_peer_that_is_gone_ends_the_connection(connect, answer):
    class Insists(reactor.Protocol):
        def write_ready(self):
            self.written = self.write(b"x")
            return answer

    conn = connect(Insists)
    assert conn.write() == answer
    conn.peer.close()
    assert conn.write() == "close"
    assert conn.proto.written == 0


def test_a_peer_that_has_only_stopped_sending_is_served(connect):
    conn = connect(Data)
    conn.peer.shutdown(socket.SHUT_WR)
    conn.proto.write_buffer += b"late"
    assert conn.write() == "read_pending"
    assert conn.received() == b"late"


def test_input_left_by_a_peer_that_is_gone_is_read(connect):
    conn = connect(Data)
    conn.peer.send(b"last words")
    conn.peer.close()
    assert conn.write() == "read_pending"
    assert conn.proto.read() == b"last words"


def test_partial_writes_of_the_base_class(connect):
    conn = connect(Data)
    conn.here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sent = os.urandom(300_000)
    conn.proto.write_buffer += sent
    assert conn.write() == "continue"
    left = len(conn.proto.write_buffer)
    assert 0 < left < len(sent)
    assert conn.write() == "continue"
    got = bytearray()
    while True:
        got += conn.received()
        if conn.write() == "read_pending":
            break
    while piece := conn.received():
        got += piece
    assert got == sent
    assert conn.proto.write_buffer == b""


def test_a_write_buffer_of_which_there_is_a_view_is_not_sent(connect):
    conn = connect(Data)
    conn.proto.write_buffer += b"once"
    view = memoryview(conn.proto.write_buffer)
    with pytest.raises(BufferError):
        conn.write()
    view.release()
    assert conn.write() == "read_pending"
    assert conn.received() == b"once"


def test_a_write_buffer_is_cut_by_what_was_sent_whatever_write_does(connect):
    class Troubled(Data):
        def write(self, data):
            written = super().write(data[:3])
            self.view = memoryview(self.write_buffer)
            return written

    conn = connect(Troubled)
    conn.proto.write_buffer += b"abcdef"
    assert conn.write() == "continue"
    assert conn.write() == "read_pending"
    assert conn.received() == b"abcdef"


def test_write_answers_0_when_there_is_no_room(connect):
    conn = connect(Data)
    conn.here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    total = 0
    while written := conn.proto.write(bytes(65536)):
        total += written
    assert total > 0
    assert conn.proto.write(b"x") == 0
    got = 0
    while piece := conn.received():
        got += len(piece)
    assert got == total
    assert conn.proto.write(b"x") == 1


def test_write_eof(connect):
    conn = connect(Data)
    assert conn.proto.write(b"all") == 3
    conn.proto.write_eof()
    assert conn.peer.recv(10) == b"all" and conn.peer.recv(10) == b""
    assert conn.proto.write(b"in vain") == 0
    conn.peer.send(b"still")
    assert conn.proto.read() == b"still"
    reactor.close_connection(conn.fd)
    conn.proto.write_eof()


def test_write_eof_of_a_pipe():
    reader, writer = os.pipe()
    proto = Data()
    proto.fd = writer
    with pytest.raises(TypeError):
        proto.write_eof()
    os.close(reader)
    os.close(writer)


def test_write_ready_uses_the_protocols_own_write(connect):
    class Counts(Data):
        def write(self, data):
            self.asked = bytes(data)
            return 2

    conn = connect(Counts)
    conn.proto.write_buffer += b"abcd"
    assert conn.write() == "continue"
    assert conn.proto.write_buffer == b"cd"
    assert conn.write() == "read_pending"
    assert conn.proto.asked == b"cd"


def test_a_pipe():
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    try:
        reactor.set_protocol_factory(Data)
        proto = reactor.init_connection(readable, {"type": "pipe"})
        os.write(writable, b"x")
        assert reactor.on_read_ready(readable) == "continue"
        assert reactor.on_read_ready(readable) == "continue"
        assert proto.write(b"no") == 0
    finally:
        os.close(writable)
    try:
        assert reactor.on_read_ready(readable) == "close"
    finally:
        os.close(readable)
