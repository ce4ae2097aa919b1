"""Each connection has context variables of its own, as in asyncio."""

from __future__ import annotations

import contextvars
import decimal

import pytest

from erlang import reactor

who = contextvars.ContextVar("who", default="nobody")


class Sees(reactor.Protocol):
    def __init__(self):
        self.seen = [who.get()]
        who.set("factory")

    def connection_made(self, fd, client_info):
        self.see("made")

    def see(self, name):
        self.seen.append(who.get())
        who.set(name)
        return "continue"

    def data_received(self, data):
        return self.see("data")

    def write_ready(self):
        return self.see("write")

    def eof_received(self):
        return self.see("eof")

    def message_received(self, message):
        return self.see("message")

    def connection_lost(self):
        self.see("lost")


def test_all_callbacks_run_in_them(connect):
    who.set("test")
    conn = connect(Sees)
    conn.read(b"x")
    conn.write()
    reactor.on_message(conn.fd, 1)
    reactor.on_read_ready(conn.fd, b"")
    reactor.close_connection(conn.fd)
    assert conn.proto.seen == ["test", "factory", "made", "data", "write", "message", "eof"]
    assert who.get() == "test"


def test_the_decimal_context(connect):
    class Rounds(reactor.Protocol):
        def data_received(self, data):
            self.prec = decimal.getcontext().prec
            decimal.getcontext().prec = 3
            return "continue"

    # Whoever has asked for the decimal context before shares it, as in asyncio.
    conn = contextvars.Context().run(connect, Rounds)
    conn.read(b"x")
    assert conn.proto.prec == 28
    conn.read(b"x")
    assert conn.proto.prec == 3
    assert decimal.getcontext().prec == 28


def test_a_callback_within_a_callback(connect):
    class Nests(reactor.Protocol):
        def data_received(self, data):
            who.set("data")
            contextvars.copy_context().run(self.other)
            reactor.on_message(self.fd, 1)
            self.close()
            return "continue"

        def other(self):
            who.set("other")

        def message_received(self, message):
            self.seen = who.get()
            return "continue"

        def connection_lost(self):
            self.lost = who.get()

    conn = connect(Nests)
    assert conn.read(b"x") == "close"
    assert (conn.proto.seen, conn.proto.lost) == ("data", "data")


def test_an_exception_leaves_them(connect):
    class Breaks(reactor.Protocol):
        def data_received(self, data):
            who.set("broken")
            raise ZeroDivisionError

    before = who.get()
    conn = connect(Breaks)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            conn.read(b"x")
    assert who.get() == before
