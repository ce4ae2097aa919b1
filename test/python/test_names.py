"""Names that outlive their connection: handles, and the methods of a protocol."""

from __future__ import annotations

import threading

import pytest
from conftest import INFO

from erlang import reactor


class Data(reactor.Protocol):
    def data_received(self, data):
        return "continue"


class Taken(reactor.Protocol):
    """Has attributes of these names for itself."""

    def __init__(self):
        self.handle = "mine"
        self.close = None

    def notify(self):
        raise AssertionError("this is not the reactor's")

    def signal_write_ready(self):
        raise AssertionError("nor is this")

    def data_received(self, data):
        return "continue"


def names(proto):
    return [proto.fd, proto.handle]


def test_no_handle_without_a_connection():
    proto = Data()
    assert proto.handle is None
    assert not proto.signal_write_ready()
    assert not proto.notify(1)
    proto.close()
    assert not proto.closed


def test_numbers_and_handles_name_a_connection(connect):
    conn = connect(Data)
    for name in names(conn.proto):
        assert reactor.get_protocol(name) is conn.proto
        assert reactor.connection_handle(name) == conn.proto.handle
        assert reactor.signal_write_ready(name) is True
        assert reactor.notify(name, 1) is True
        assert reactor.on_read_ready(name, b"x") == "continue"
        assert reactor.on_write_ready(name) == "read_pending"


def test_the_handle_is_known_in_connection_made_and_kept(connect):
    class Looks(Data):
        def connection_made(self, fd, client_info):
            self.seen = self.handle, reactor.get_protocol(self.handle)

        def connection_lost(self):
            self.left = self.handle

    proto = connect(Looks).proto
    assert proto.seen == (proto.handle, proto)
    proto.close()
    assert proto.left == proto.handle


def test_a_stale_handle_reaches_nobody(connect):
    first = connect(Data).proto
    stale = first.handle
    first.close()
    second = connect(Data).proto
    assert second.fd == first.fd and second.handle != stale
    assert reactor.get_protocol(stale) is None
    assert reactor.connection_handle(stale) is None
    assert reactor.signal_write_ready(stale) is False
    assert reactor.notify(stale, 1) is False
    reactor.close_connection(stale)
    for function in (reactor.on_read_ready, reactor.on_write_ready, reactor.on_message):
        with pytest.raises(RuntimeError, match="is not being served"):
            function(stale)
    assert not second.closed


def test_methods_of_a_protocol_whose_number_is_used_again(connect):
    first = connect(Data).proto
    first.close()
    second = connect(Data).proto
    assert not first.signal_write_ready()
    assert not first.notify(1)
    first.close()
    assert not second.closed
    assert reactor.on_message(second.fd) == "continue"


def test_an_instance_that_serves_again_has_another_handle(connect):
    proto = Data()
    fd = connect(lambda: proto).fd
    before = proto.handle
    proto.close()
    reactor.init_connection(fd, INFO)
    assert proto.handle != before
    assert reactor.get_protocol(before) is None


def test_close_from_a_thread(connect):
    proto = connect(Data).proto
    thread = threading.Thread(target=proto.close)
    thread.start()
    thread.join()
    assert proto.closed
    assert reactor.get_protocol(proto.fd) is None


def test_close_in_a_callback(connect):
    class Closes(Data):
        def data_received(self, data):
            self.close()
            return "continue"

        def connection_lost(self):
            self.lost = True

    conn = connect(Closes)
    assert conn.read(b"x") == "close"
    assert conn.proto.lost


def test_attributes_of_the_same_names(connect):
    conn = connect(Taken)
    assert conn.proto.handle == "mine"
    assert conn.read(b"x") == "continue"
    handle = reactor.connection_handle(conn.fd)
    assert reactor.get_protocol(handle) is conn.proto
    assert reactor.notify(handle, 1)
    reactor.close_connection(handle)
    assert conn.proto.closed


def test_the_class_has_the_names():
    assert Data.handle is reactor.Protocol.handle
    assert callable(Data.close)
