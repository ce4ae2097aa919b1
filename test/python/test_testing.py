"""erlang.testing: protocols are driven as the reactor drives them, over no descriptor at all."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlang import _by_hand, _plain, reactor
from erlang.testing import connect


class Recording(reactor.Protocol):
    """Answers as it is told, and remembers what was called."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[Any] = []
        self.answers = answers

    def _answer(self, method: str, default: Any, *args: Any) -> Any:
        self.calls.append((method, *args))
        answer = self.answers.get(method, default)
        return answer() if callable(answer) else answer

    def connection_made(self, fd, client_info):
        self.calls.append(("connection_made", client_info["type"]))

    def data_received(self, data):
        return self._answer("data_received", "continue", bytes(data))

    def write_ready(self):
        return self._answer("write_ready", "read_pending")

    def eof_received(self):
        return self._answer("eof_received", "close")

    def message_received(self, message):
        return self._answer("message_received", "continue", message)

    def connection_lost(self):
        self.calls.append(("connection_lost", self.closed))


class Shout(reactor.Protocol):
    def __init__(self):
        self.unread = bytearray()

    def data_received(self, data):
        self.unread += data
        *lines, self.unread = self.unread.split(b"\n")
        for line in lines:
            self.write_buffer += line.upper() + b"\n"
        return "write_pending"


def test_lines_are_shouted():
    with connect(Shout) as peer:
        peer.send(b"hello\nwor")
        assert peer.receive() == b"HELLO\n"
        peer.send(b"ld\n")
        assert peer.receive() == b"WORLD\n"
        assert peer.receive() == b""
        assert not peer.closed
    assert peer.closed
    assert peer.protocol.closed


@given(st.lists(st.binary(max_size=50)), st.integers(1, 64))
def test_a_stream_arrives_however_little_may_wait(pieces, high):
    class Echo(reactor.Protocol):
        def data_received(self, data):
            self.write_buffer += data
            return "write_pending"

    received = b""
    with connect(Echo, write_high_bytes=high) as peer:
        for piece in pieces:
            peer.send(piece)
            received += peer.receive()
        while more := peer.receive():
            received += more
    assert received == b"".join(pieces)


def test_the_life_of_a_connection():
    with connect(lambda: Recording(data_received="close")) as peer:
        peer.send(b"x")
        assert peer.closed
    calls = [("connection_made", "tcp"), ("data_received", b"x"), ("connection_lost", True)]
    assert peer.protocol.calls == calls


def test_the_end_of_the_input_comes_last_and_the_answer_still_arrives():
    class Late(Recording):
        def eof_received(self):
            assert self.write(b"bye") == 3
            return super().eof_received()

    with connect(lambda: Late(data_received="async_pending")) as peer:
        peer.send(b"x")
        peer.end()
        assert peer.protocol.peer_closed
        assert peer.mode == "async"
        assert peer.protocol.calls[-1] == ("data_received", b"x")
        assert peer.protocol.signal_write_ready()
        peer.run()
        assert [call[0] for call in peer.protocol.calls[-3:]] == ["write_ready", "eof_received", "connection_lost"]
        assert peer.receive() == b"bye"


def test_an_output_that_ends():
    class Ending(Recording):
        def data_received(self, data):
            if not peer.ended:
                assert self.write(b"all") == 3
                self.write_eof()
            assert self.write(b"in vain") == 0
            return super().data_received(data)

        def eof_received(self):
            super().eof_received()
            return "async_pending"

    with connect(lambda: Ending(data_received="continue")) as peer:
        peer.send(b"x")
        assert peer.ended and peer.receive() == b"all" and not peer.closed
        peer.send(b"y")
        assert peer.protocol.calls[-1] == ("data_received", b"y")
        peer.end()
        assert peer.closed and peer.protocol.close_reason == "peer_closed"
    peer.protocol.write_eof()


@pytest.mark.parametrize("early", [True, False])
def test_a_wait_ends_by_a_signal(early):
    class Waits(Recording):
        def data_received(self, data):
            if early:
                reactor.signal_write_ready(self.handle)
            return "async_pending"

        def write_ready(self):
            self.write(b"done")
            return "read_pending"

    with connect(Waits) as peer:
        peer.send(b"x")
        if not early:
            assert (peer.receive(), peer.mode) == (b"", "async")
            thread = threading.Thread(target=peer.protocol.signal_write_ready)
            thread.start()
            thread.join()
            peer.run()
        assert (peer.receive(), peer.mode) == (b"done", "read")


@pytest.mark.parametrize("answer", ["continue", "read_pending", "write_pending", "async_pending"])
def test_a_signal_is_for_what_stands_in_write_buffer_whatever_is_answered(answer):
    class Signals(reactor.Protocol):
        def data_received(self, data):
            self.write_buffer += data
            reactor.signal_write_ready(self.handle)
            return answer

    with connect(Signals) as peer:
        peer.send(b"x" * 16384 + b"y")
        assert (peer.receive(), peer.mode) == (b"x" * 16384 + b"y", "read")


def test_a_late_signal_does_not_lose_the_answer_of_another():
    with connect(Shout) as peer:
        peer.protocol.data_received = lambda data: "async_pending"
        peer.send(b"x")
        for answer in (b"", b"late"):
            peer.protocol.write_buffer += answer
            assert reactor.notify(peer.protocol.handle, "hello")
            peer.protocol.signal_write_ready()
            peer.run()
            assert (peer.receive(), peer.mode) == (answer, "read")
        peer.protocol.signal_write_ready()
        peer.run()
        peer.protocol.write_buffer += b"an old signal is not kept"
        assert (peer.receive(), peer.mode) == (b"", "read")


def test_what_stands_in_write_buffer_is_written_before_a_half_closed_connection_ends():
    class Ending(reactor.Protocol):
        def eof_received(self):
            self.write_buffer += b"bye"
            self.signal_write_ready()
            return "read_pending"

    with connect(Ending) as peer:
        peer.end()
        assert peer.closed and peer.receive() == b"bye"
    # A half-closed connection that is held waits for a signal, and for nothing else.
    with connect(lambda: Recording(eof_received="continue")) as peer:
        peer.end()
        assert peer.mode == "read"
        peer.protocol.signal_write_ready()
        peer.run()
        assert peer.closed and [call[0] for call in peer.protocol.calls[-2:]] == ["write_ready", "connection_lost"]


def test_messages_come_in_every_mode_and_leave_it():
    with connect(lambda: Recording(data_received="async_pending")) as peer:
        peer.send(b"x")
        peer.notify("hello")
        assert peer.protocol.calls[-1] == ("message_received", "hello")
        assert peer.mode == "async"
        assert reactor.notify(peer.protocol.handle, "again")
        peer.run()
        assert peer.protocol.calls[-1] == ("message_received", "again")


def test_a_close_by_name_is_noticed():
    with connect(Recording) as peer:
        peer.protocol.close()
        peer.run()
        assert peer.closed
    assert peer.protocol.calls[-1] == ("connection_lost", True)


def test_what_a_callback_raises_reaches_the_test_and_ends_the_connection():
    def fail():
        raise ZeroDivisionError

    with connect(lambda: Recording(data_received=fail)) as peer, pytest.raises(ZeroDivisionError):
        peer.send(b"x")
    assert peer.protocol.calls[-1] == ("connection_lost", True)
    with connect(lambda: Recording(data_received="contineu")) as peer, pytest.raises(ValueError, match="continue"):
        peer.send(b"x")
    assert peer.closed


@pytest.mark.parametrize("name", ["connection_made", "connection_lost"])
@pytest.mark.filterwarnings("error")
def test_callbacks_that_answer_nothing_are_no_coroutines(name):
    async def callback(self, *args):
        raise AssertionError("it ran")

    cls = type("Awaiting", (Recording,), {name: callback})
    with pytest.raises(ValueError, match=rf"Awaiting\.{name}\(\) returned a coroutine .*create_task"):
        connect(cls).close()


def test_who_writes_nothing_for_ever_is_found():
    with connect(lambda: Recording(data_received="write_pending", write_ready="continue")) as peer:
        with pytest.raises(RuntimeError, match="for ever"):
            peer.send(b"x")


def test_a_protocol_may_read_by_itself():
    class Reads(Recording):
        def data_received(self, data):
            rest = self.read(3), self.read(100), self.read(100)
            self.calls.append(rest)
            return "continue"

    with connect(Reads) as peer:
        peer.send(b"a" * 16384 + b"bcdefg")
        assert peer.protocol.calls[-1] == (b"bcd", b"efg", None)


def test_each_connection_has_its_own_variables():
    number = contextvars.ContextVar("number", default=0)

    class Counts(Recording):
        def data_received(self, data):
            number.set(number.get() + 1)
            self.write(b"%d" % number.get())
            return "continue"

    with connect(Counts) as one, connect(Counts) as other:
        for expected in (b"1", b"2"):
            one.send(b"x")
            assert one.receive() == expected
        other.send(b"x")
        assert other.receive() == b"1"
    assert number.get() == 0


def test_nothing_is_left_behind():
    for factory in (Recording, lambda: None, lambda: Recording(data_received="close")):
        try:
            with connect(factory) as peer:
                peer.send(b"x")
        except RuntimeError:
            pass
    assert not _plain.in_memory
    assert not _by_hand.connections


def test_no_descriptor_is_behind_it():
    with connect(Recording) as peer:
        assert peer.protocol.get_extra_info("socket") is None
        assert peer.protocol.get_extra_info("peername") == ("127.0.0.1", 4711)
