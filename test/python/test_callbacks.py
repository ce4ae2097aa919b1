"""Serving by hand: actions, order of callbacks, end of input, errors."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import socket

import pytest

from erlang import reactor
from erlang._describe import describe

READ_ACTIONS = ["continue", "write_pending", "read_pending", "async_pending", "close"]
WRITE_ACTIONS = ["continue", "write_pending", "read_pending", "close"]


class EqualsAll:
    def __eq__(self, other):
        return True

    def __repr__(self):
        return "EqualsAll()"


ILLEGAL = [
    EqualsAll(),
    None,
    "",
    "Continue",
    "no such action",
    b"close",
    0,
    True,
    ["close"],
    {"close": 1},
]


class Scripted(reactor.Protocol):
    """Answers each callback as its class says, and notes the calls."""

    on_data = on_eof = on_write = "continue"

    def __init__(self):
        self.calls = []

    def connection_made(self, fd, client_info):
        self.calls.append(("connection_made", fd, client_info))

    def data_received(self, data):
        self.calls.append(("data_received", bytes(data)))
        return self.on_data

    def write_ready(self):
        self.calls.append(("write_ready",))
        return self.on_write

    def eof_received(self):
        self.calls.append(("eof_received",))
        return self.on_eof

    def connection_lost(self):
        self.calls.append(("connection_lost", self.closed))


def scripted(**answers):
    return type("Scripted", (Scripted,), answers)


@pytest.mark.parametrize("action", READ_ACTIONS)
def test_read_actions(connect, action):
    conn = connect(scripted(on_data=action))
    assert conn.read(b"x") == action


@pytest.mark.parametrize("action", READ_ACTIONS)
def test_eof_actions(connect, action):
    conn = connect(scripted(on_eof=action))
    conn.peer.shutdown(socket.SHUT_WR)
    assert conn.read() == action


@pytest.mark.parametrize("action", WRITE_ACTIONS)
def test_write_actions(connect, action):
    conn = connect(scripted(on_write=action))
    assert conn.write() == action


@pytest.mark.parametrize("value", ILLEGAL, ids=repr)
@pytest.mark.parametrize("method", ["data_received", "eof_received", "write_ready"])
def test_illegal_actions(connect, method, value):
    conn = connect(scripted(on_data=value, on_eof=value, on_write=value))
    with pytest.raises(ValueError) as caught:
        match method:
            case "data_received":
                conn.read(b"x")
            case "eof_received":
                reactor.on_read_ready(conn.fd, b"")
            case "write_ready":
                conn.write()
    message = str(caught.value)
    assert f"test_callbacks.Scripted.{method}() returned {describe(value)}" in message
    assert "continue" in message
    assert ("return statement missing" in message) == (value is None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "None (is a return statement missing?)"),
        ("x" * 100, f"{'x' * 80!r}..."),
        (b"close", "b'close' (an action is a str, not bytes)"),
        (b"x" * 100, f"{b'x' * 80!r}..."),
        (1 << 100, "an int of 101 bits"),
        (-5, "-5"),
        ([0] * 1000, "a list of length 1000"),
        ({}, "{}"),
        ({1: 2}, "a dict of length 1"),
        (range(5), "a range"),
        ((x for x in ()), "a generator (the method contains `yield`: return the action instead)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_said_of_an_illegal_answer(connect, value, said):
    conn = connect(scripted(on_data=value))
    with pytest.raises(ValueError) as caught:
        conn.read(b"x")
    assert f"returned {said}; it must return one of" in str(caught.value)


def test_a_repr_of_ones_own_is_not_called(connect):
    class Endless:
        def __repr__(self):
            raise AssertionError("asked")

    conn = connect(scripted(on_data=Endless()))
    with pytest.raises(ValueError, match=r"returned an object of class test_callbacks\..*Endless; it must"):
        conn.read(b"x")


@pytest.mark.filterwarnings("error")
def test_a_coroutine_is_closed_and_says_what_to_do(connect):
    async def answer():
        return "close"

    coroutine = answer()
    conn = connect(scripted(on_data=coroutine))
    with pytest.raises(ValueError, match=r"returned a coroutine .*running event loop.*asyncio\.run"):
        conn.read(b"x")
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_huge_wrong_value_is_not_repeated_in_full(connect):
    conn = connect(scripted(on_data="x" * 100_000))
    with pytest.raises(ValueError) as caught:
        conn.read(b"x")
    assert len(str(caught.value)) < 500


def test_order_of_callbacks(connect):
    conn = connect(scripted(on_data="write_pending"))
    conn.read(b"one")
    conn.write()
    assert conn.proto.peer_closed is False
    conn.peer.close()
    conn.read()
    assert conn.proto.peer_closed is True
    assert (conn.proto.close_reason, conn.proto.close_errno) == (None, 0)
    reactor.close_connection(conn.fd)
    assert (conn.proto.close_reason, conn.proto.close_errno) == ("peer_closed", 0)
    info = {"addr": "127.0.0.1", "port": 4711, "type": "tcp"}
    assert conn.proto.calls == [
        ("connection_made", conn.fd, info),
        ("data_received", b"one"),
        ("write_ready",),
        ("eof_received",),
        ("connection_lost", True),
    ]


def test_nothing_to_read_calls_nothing(connect):
    conn = connect(Scripted)
    assert conn.read() == "continue"
    assert [call[0] for call in conn.proto.calls] == ["connection_made"]


def test_a_read_error_closes(connect, monkeypatch):
    def reset(fd, size):
        raise ConnectionResetError

    conn = connect(Scripted)
    monkeypatch.setattr("os.read", reset)
    assert conn.read() == "close"
    assert [call[0] for call in conn.proto.calls] == ["connection_made"]


def test_input_given_by_the_caller(connect):
    received = []

    class Keeps(reactor.Protocol):
        def data_received(self, data):
            received.append(data)
            return "continue"

    conn = connect(Keeps)
    ready_made = reactor.ReactorBuffer(b"three")
    for data in (b"one", bytearray(b"two"), ready_made, memoryview(b"four")):
        assert reactor.on_read_ready(conn.fd, data) == "continue"
    assert received == [b"one", b"two", b"three", b"four"]
    assert {type(data) for data in received} == {reactor.ReactorBuffer}
    assert received[2] is ready_made
    with pytest.raises(TypeError, match="bytes-like"):
        reactor.on_read_ready(conn.fd, "text")


def test_close_calls_connection_lost_once(connect):
    conn = connect(Scripted)
    for _ in range(3):
        reactor.close_connection(conn.fd)
    assert conn.proto.calls[1:] == [("connection_lost", True)]
    assert reactor.get_protocol(conn.fd) is None
    assert conn.here.fileno() == conn.fd, "the descriptor stays the caller's"
    assert conn.here.send(b"x") == 1


def test_close_of_an_unknown_fd_does_nothing():
    reactor.close_connection(12345)


def test_connection_lost_that_raises_leaves_nothing_behind(connect):
    class Breaks(reactor.Protocol):
        def connection_lost(self):
            raise ZeroDivisionError

    conn = connect(Breaks)
    with pytest.raises(ZeroDivisionError):
        reactor.close_connection(conn.fd)
    assert conn.proto.closed
    assert reactor.get_protocol(conn.fd) is None


def test_an_exception_reaches_the_caller(connect):
    class Breaks(reactor.Protocol):
        def data_received(self, data):
            raise LookupError("mine")

    conn = connect(Breaks)
    with pytest.raises(LookupError, match="mine"):
        conn.read(b"x")


def test_no_data_received(connect):
    class Forgot(reactor.Protocol):
        pass

    conn = connect(Forgot)
    with pytest.raises(NotImplementedError, match=r"Forgot does not define data_received\(\)"):
        conn.read(b"x")


@pytest.mark.parametrize("answer", ["continue", "write_pending", "read_pending"])
def test_a_callback_that_closes_its_own_connection(connect, answer):
    class Closes(Scripted):
        on_data = answer

        def data_received(self, data):
            reactor.close_connection(self.fd)
            return super().data_received(data)

    conn = connect(Closes)
    assert conn.read(b"x") == "close"


@pytest.mark.parametrize("call", [reactor.on_read_ready, reactor.on_write_ready])
def test_events_of_an_unknown_fd(call):
    with pytest.raises(RuntimeError, match="fd 12345 is not being served"):
        call(12345)


def test_signal_write_ready(connect):
    conn = connect(scripted(on_data="async_pending", on_write="read_pending"))
    assert conn.read(b"x") == "async_pending"
    before = list(conn.proto.calls)
    assert reactor.signal_write_ready(conn.fd) is True
    assert conn.proto.calls == before, "write_ready is the caller's to call"
    assert conn.write() == "read_pending"
    reactor.close_connection(conn.fd)
    assert reactor.signal_write_ready(conn.fd) is False


def test_why_it_was_closed(connect):
    reasons = []

    class Tells(reactor.Protocol):
        def connection_lost(self):
            reasons.append(self.close_reason)

    conn = connect(Tells)
    proto = conn.proto
    assert proto.close_reason is None
    proto.close()
    assert reasons == ["closed"] and proto.close_reason == "closed"


def test_why_it_was_never_made(pair):
    class Fails(reactor.Protocol):
        made = []

        def connection_made(self, fd, client_info):
            self.made.append(self)
            raise LookupError

    reactor.set_protocol_factory(Fails)
    with pytest.raises(LookupError):
        reactor.init_connection(pair[0].fileno(), {})
    assert Fails.made[0].close_reason == "exception"


def served(cls):
    """A connection that is driven by hand: its peer, and its number."""
    here, peer = socket.socketpair()
    here.setblocking(False)
    reactor.set_protocol_factory(cls)
    reactor.init_connection(here.fileno(), {})
    return here, peer


def test_async_callbacks_under_a_running_loop():
    who = contextvars.ContextVar("who", default=0)

    class Awaits(reactor.Protocol):
        async def data_received(self, data):
            await asyncio.sleep(0)
            who.set(who.get() + len(data))
            self.write(b"%d" % who.get())
            return "continue"

    async def main():
        here, peer = served(Awaits)
        with here, peer:
            for expected in (b"2", b"4"):
                peer.send(b"xy")
                assert reactor.on_read_ready(here.fileno()) == "async_pending"
                assert await reactor.awaited(here.fileno()) == "continue"
                assert peer.recv(10) == expected
            with pytest.raises(RuntimeError, match="no `async def` callback"):
                await reactor.awaited(here.fileno())
            reactor.close_connection(here.fileno())

    asyncio.run(main())


def test_tasks_end_with_a_connection_that_is_driven_by_hand():
    ended = []

    class Begins(reactor.Protocol):
        def data_received(self, data):
            self.task = self.create_task(self.forever())
            self.closing = self.create_task(self.closes())
            self.call_later(3600, ended.append, "never")
            self.call_later(0, ended.append, "timer")
            return "continue"

        async def forever(self):
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append("cancelled")

        async def closes(self):
            await asyncio.sleep(0.01)
            self.close()
            await asyncio.sleep(0)
            ended.append("went on")

        def connection_lost(self):
            ended.append("lost")

    async def main():
        here, peer = served(Begins)
        with here, peer:
            proto = reactor.get_protocol(here.fileno())
            assert reactor.on_read_ready(here.fileno(), b"x") == "continue"
            await asyncio.wait([proto.task, proto.closing])
            with pytest.raises(RuntimeError, match="ended"):
                proto.call_later(0, print)
            assert sorted(ended) == ["cancelled", "lost", "timer", "went on"]

    asyncio.run(main())
