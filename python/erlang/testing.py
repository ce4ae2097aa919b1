"""Unit tests of protocols, without sockets and without Erlang: a connection in memory.

    from erlang.testing import connect

    def test_shout():
        with connect(Shout) as peer:
            peer.send(b"hello\\nwor")
            assert peer.receive() == b"HELLO\\n"

:class:`Peer` is the other end. Whatever it does is followed by the callbacks that the reactor would
call, in the order in which it would, until nothing is left to do. What a callback raises, and what
is no action, reaches the test; the connection has ended then, as under the reactor.

Where the package is installed, pytest finds the fixture ``connect_to``, which is :func:`connect` and
closes what the test leaves open. Inside the Erlang VM nothing of this works: there are real connections.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from erlang import _by_hand, reactor
from erlang._native import native

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from erlang.reactor import Protocol

__all__ = ["Peer", "connect"]

# What no descriptor of a process has: they are served in memory.
_numbers = itertools.count(1 << 30)

# As the options write_high_bytes and buffer_bytes of a context are by default.
_WRITE_HIGH_BYTES = 262144
_BUFFER_BYTES = 16384

# Answers of write_ready that ask to be called again, with nothing written in between.
_IDLE_ANSWERS_MAX = 1000


def connect(
    factory: Callable[[], Protocol],
    client_info: Mapping[Any, Any] | None = None,
    *,
    write_high_bytes: int = _WRITE_HIGH_BYTES,
) -> Peer:
    """Connect to a new protocol of ``factory``: its ``connection_made`` has returned.

    Args:
        factory: a protocol class, or what makes a protocol.
        client_info: as for :func:`erlang.reactor.init_connection`; by default that of a TCP client.
        write_high_bytes: how much may wait for the peer, as the option of a context.

    Raises:
        RuntimeError: inside the Erlang VM; or what ``factory`` made is no new Protocol.
        Whatever the factory or ``connection_made`` raises.
    """
    info = {"addr": "127.0.0.1", "port": 4711, "type": "tcp"} if client_info is None else client_info
    return Peer(factory, info, write_high_bytes)


class Peer:
    """The other end of a connection in memory.

    Attributes:
        protocol: who serves the connection.
        mode: what the protocol waits for: ``"read"``, ``"write"``, ``"async"``; ``"closed"`` afterwards.
        ended: whether the protocol has ended its output with ``write_eof``.
    """

    protocol: Protocol
    mode: Literal["read", "write", "async", "closed"]
    ended: bool

    def __init__(
        self, factory: Callable[[], Protocol], client_info: Mapping[Any, Any], write_high_bytes: int
    ) -> None:
        wires = getattr(native, "in_memory", None)
        if wires is None:
            raise RuntimeError("erlang.testing works outside the Erlang VM only: run the tests by pytest")
        self._wires = wires
        self._high = write_high_bytes
        self._input = bytearray()
        self._output = bytearray()
        self._ends = self._end_told = self.ended = False
        self._idle_answers = 0
        self.mode = "read"
        self._fd = next(_numbers)
        wires[self._fd] = self
        try:
            self.protocol = reactor._serve(self._fd, client_info, factory)
        except BaseException:
            del wires[self._fd]
            self.mode = "closed"
            raise
        served = _by_hand.find(self._fd)
        assert served is not None
        self._served = served
        self.run()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended; what was written before can still be received."""
        return self.mode == "closed"

    def send(self, data: Buffer) -> None:
        """Send to the protocol; it is delivered as soon as the protocol is in read mode, in pieces of 16 KiB at most."""
        if self._ends:
            raise RuntimeError("nothing can be sent after end()")
        self._input += data
        self.run()

    def end(self) -> None:
        """Send nothing more: ``eof_received`` comes when all that was sent is delivered. What is written can be received."""
        self._ends = True
        if not self.closed:
            self.protocol.peer_closed = True
        self.run()

    def receive(self) -> bytes:
        """All that the protocol has written and was not received yet; ``b""`` if there is nothing."""
        received = bytes(self._output)
        self._output.clear()
        self.run()
        return received

    def notify(self, message: Any) -> None:
        """Pass a message to ``message_received``, as ``py_reactor_context:notify/3`` does."""
        if self.closed:
            raise RuntimeError("the connection has ended")
        self._call(reactor.on_message, message)
        self.run()

    def close(self) -> None:
        """Go away: the connection is lost, if it is not yet."""
        if not self.closed:
            self._lose()

    def run(self) -> None:
        """Call what is to be called now. Needed after something else than this object has had an effect on the protocol.

        That is ``signal_write_ready``, ``notify`` or ``close`` of the protocol, by the test or by a thread.
        """
        while self._step():
            pass

    def _step(self) -> bool:
        if self.closed:
            return False
        if _by_hand.find(self._served.handle) is not self._served:
            self._forget()
        elif self._served.signalled:
            self._served.signalled = False
            if self.mode == "async" or (self.mode == "read" and (self._end_told or self._buffers())):
                self.mode = "write"
        elif self._served.messages:
            self._call(reactor.on_message)
        elif self.mode == "read" and self._input:
            data = bytes(self._input[:_BUFFER_BYTES])
            del self._input[:_BUFFER_BYTES]
            self._call(reactor.on_read_ready, data)
        elif self.mode == "read" and self._ends and not self._end_told:
            self._end_told = True
            self._call(reactor.on_read_ready, b"")
        elif self._end_told and self.ended:
            # Both have said all that they had to say.
            self._lose()
        elif self.mode == "write" and len(self._output) < self._high:
            self._call(reactor.on_write_ready)
        else:
            return False
        return True

    def _call(self, event: Callable[..., str], *args: Any) -> None:
        before = len(self._output)
        try:
            action = event(self._served.handle, *args)
        except BaseException:
            self._lose()
            raise
        waits_for_room = action in ("continue", "write_pending") and event is reactor.on_write_ready
        self._idle_answers = self._idle_answers + 1 if waits_for_room and len(self._output) == before else 0
        if self._idle_answers > _IDLE_ANSWERS_MAX:
            self._lose()
            raise RuntimeError(
                f"write_ready() has answered {action!r} {_IDLE_ANSWERS_MAX} times, and written nothing: it would be called for ever"
            )
        match action:
            case "write_pending":
                self.mode = "write"
            case "read_pending" if self._end_told and not (self._served.signalled and self._buffers()):
                # Nothing can come any more.
                self._lose()
            case "read_pending":
                self.mode = "read"
            case "async_pending":
                self.mode = "async"
            case "close":
                self._lose()

    def _buffers(self) -> bool:
        """Whether something stands in ``write_buffer`` that can be written: it is, when somebody signals."""
        buffer: object = getattr(self.protocol, "write_buffer", None)
        return not self.ended and isinstance(buffer, bytearray | bytes) and len(buffer) > 0

    def _lose(self) -> None:
        self._forget()
        _by_hand.close(self._served.handle)

    def _forget(self) -> None:
        self.mode = "closed"
        self._wires.pop(self._fd, None)

    # What the protocol reads and writes.

    def read_now(self, size: int) -> bytes | None:
        """For ``Protocol.read``."""
        data = bytes(self._input[:size])
        del self._input[:size]
        return data or (b"" if self._ends else None)

    def write_now(self, data: Buffer) -> int:
        """For ``Protocol.write``: an object is taken whole where nothing waits."""
        with memoryview(data) as view:
            taken = bytes(view)
        if self.ended:
            return 0
        if self._output:
            taken = taken[: max(self._high - len(self._output), 0)]
        self._output += taken
        return len(taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()
