"""Factories, init_connection and what it makes of the client information."""

from __future__ import annotations

import functools

import pytest
from conftest import INFO

from erlang import reactor


class Plain(reactor.Protocol):
    def __init__(self, label="default"):
        self.label = label

    def connection_made(self, fd, client_info):
        self.made = (fd, client_info)


class Falsy(reactor.Protocol):
    def __len__(self):
        return 0


@pytest.mark.parametrize(
    ("factory", "label"),
    [
        (Plain, "default"),
        (lambda: Plain("by lambda"), "by lambda"),
        (functools.partial(Plain, label="by partial"), "by partial"),
    ],
)
def test_factories(connect, factory, label):
    conn = connect(factory)
    assert conn.proto.label == label
    assert reactor.get_protocol(conn.fd) is conn.proto


def test_a_protocol_that_is_false_is_still_a_protocol(connect):
    conn = connect(Falsy)
    assert reactor.get_protocol(conn.fd) is conn.proto
    reactor.close_connection(conn.fd)
    assert conn.proto.closed


@pytest.mark.parametrize("factory", [None, 5, "Plain"])
def test_a_factory_must_be_callable(factory):
    with pytest.raises(TypeError, match="must be callable"):
        reactor.set_protocol_factory(factory)


def test_no_factory(pair):
    with pytest.raises(RuntimeError, match=r"set_protocol_factory\(\) first"):
        reactor.init_connection(pair[0].fileno(), INFO)


def test_a_factory_that_raises(connect, pair):
    def factory():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        connect(factory)
    assert reactor.get_protocol(pair[0].fileno()) is None


@pytest.mark.parametrize("made", [None, object(), Plain, "text"], ids=repr)
def test_a_factory_that_makes_something_else(connect, pair, made):
    with pytest.raises(RuntimeError, match="not an instance of"):
        connect(lambda: made)
    assert reactor.get_protocol(pair[0].fileno()) is None


def test_one_instance_cannot_serve_two_connections(pair):
    proto = Plain()
    reactor.set_protocol_factory(lambda: proto)
    first, second = (end.fileno() for end in pair)
    reactor.init_connection(first, INFO)
    with pytest.raises(RuntimeError, match=f"the instance that serves fd {first}"):
        reactor.init_connection(second, INFO)
    assert proto.fd == first
    assert reactor.get_protocol(second) is None


def test_an_instance_may_serve_again_after_its_connection_is_closed(connect):
    proto = Plain()
    fd = connect(lambda: proto).fd
    reactor.close_connection(fd)
    assert proto.closed
    assert reactor.init_connection(fd, INFO) is proto
    assert not proto.closed


def test_an_fd_is_served_once(connect):
    conn = connect(Plain)
    with pytest.raises(RuntimeError, match=f"fd {conn.fd} is already being served"):
        reactor.init_connection(conn.fd, INFO)
    assert reactor.get_protocol(conn.fd) is conn.proto
    reactor.close_connection(conn.fd)
    assert reactor.init_connection(conn.fd, INFO) is not conn.proto


def test_a_negative_fd():
    reactor.set_protocol_factory(Plain)
    with pytest.raises(ValueError, match="must not be negative"):
        reactor.init_connection(-1, INFO)


def test_a_new_factory_leaves_connections_alone(connect):
    conn = connect(Plain)
    reactor.set_protocol_factory(Falsy)
    assert type(reactor.get_protocol(conn.fd)) is Plain


def test_attributes_are_set_before_connection_made(connect):
    class Looks(reactor.Protocol):
        def connection_made(self, fd, client_info):
            self.seen = (self.fd, self.client_info, self.closed, reactor.get_protocol(fd))

    conn = connect(Looks)
    assert conn.proto.seen == (conn.fd, INFO, False, conn.proto)
    assert conn.proto.client_info is not INFO


def test_connection_made_that_raises(connect, pair):
    made = []

    class Breaks(reactor.Protocol):
        def connection_made(self, fd, client_info):
            made.append(self)
            raise ZeroDivisionError

        def connection_lost(self):
            made.append("lost")

    with pytest.raises(ZeroDivisionError):
        connect(Breaks)
    fd = pair[0].fileno()
    reactor.close_connection(fd)
    assert len(made) == 1, "no connection_lost without connection_made"
    assert made[0].closed
    assert reactor.get_protocol(fd) is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("127.0.0.1", "127.0.0.1"),
        (b"127.0.0.1", "127.0.0.1"),
        ([49, 48, 46, 48, 46, 48, 46, 49], "10.0.0.1"),
        ([], ""),
        ((192, 168, 0, 1), "192.168.0.1"),
        ((0, 0, 0, 0, 0, 0, 0, 1), "::1"),
        ((0x2001, 0xDB8, 0, 0, 0, 0, 0, 0xFF), "2001:db8::ff"),
        ((0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1), "::ffff:127.0.0.1"),
        (("local", b"/tmp/socket"), "/tmp/socket"),
        (b"/tmp/\xff", "/tmp/\udcff"),
    ],
    ids=repr,
)
def test_addresses(pair, given, text):
    reactor.set_protocol_factory(Plain)
    proto = reactor.init_connection(pair[0].fileno(), {"addr": given})
    assert proto.client_info == {"addr": text}
    assert proto.made == (pair[0].fileno(), {"addr": text})


@pytest.mark.parametrize(
    "given",
    [
        None,
        5,
        (1, 2, 3),
        (1, 2, 3, 256),
        (1, 2, 3, "4"),
        (0,) * 7 + (65536,),
        (0,) * 7 + (-1,),
        [-1],
        [0x110000],
        ["a"],
        ("local", 5),
        ("other", "x"),
    ],
    ids=repr,
)
def test_what_is_no_address(pair, given):
    reactor.set_protocol_factory(Plain)
    with pytest.raises(TypeError, match="is not an address"):
        reactor.init_connection(pair[0].fileno(), {"addr": given})
    assert reactor.get_protocol(pair[0].fileno()) is None


def test_keys_and_values(pair):
    reactor.set_protocol_factory(Plain)
    info = {b"port": 80, b"type": b"tcp", "tag": b"\xff", "none": None}
    proto = reactor.init_connection(pair[0].fileno(), info)
    assert proto.client_info == {"port": 80, "type": "tcp", "tag": b"\xff", "none": None}


@pytest.mark.parametrize("info", [None, [], {1: 2}, {None: 1}], ids=repr)
def test_what_is_no_client_info(pair, info):
    reactor.set_protocol_factory(Plain)
    with pytest.raises(TypeError, match="client_info"):
        reactor.init_connection(pair[0].fileno(), info)


def test_an_empty_client_info(pair):
    reactor.set_protocol_factory(Plain)
    assert reactor.init_connection(pair[0].fileno(), {}).client_info == {}
