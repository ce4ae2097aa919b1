"""What stands in for the native module outside the Erlang VM.

The same names with the same meaning as in ``_py_reactor``: ``Protocol`` and ``ReactorBuffer`` in
pure Python, over ``os.read`` and ``os.write``, and functions which answer that no reactor is
running. So a protocol can be tested with pytest and a socket pair. Nothing here is fast.

Descriptors should be non-blocking, as they are under the reactor: on a blocking one ``read`` and
``write`` wait.
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, final, overload

from erlang import _by_hand, _extra_info

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from typing_extensions import Buffer

    from erlang._terms import Pid
    from erlang._vocabulary import Action, Wire

_Result = TypeVar("_Result")


class _Handle:
    """``Protocol.handle``: yields to an attribute of that name in a subclass or an instance."""

    @overload
    def __get__(self, proto: None, cls: type, /) -> Self: ...
    @overload
    def __get__(self, proto: Protocol, cls: type | None = None, /) -> tuple[int, int, int] | None: ...
    def __get__(self, proto: Protocol | None, cls: type | None = None, /) -> Any:
        return self if proto is None else proto._handle


class Protocol:
    """Base class of all protocols: one instance serves one connection.

    ``fd``, ``client_info`` and ``closed`` are set before :meth:`connection_made`, so no override
    needs to call ``super()``; nor does ``__init__``, whose arguments are the subclass's own.

    Attributes:
        fd: the descriptor; -1 before the connection is made, kept after it is closed.
        client_info: what the hand-over said of the client. ``"addr"`` (str), ``"port"`` (int) and
            ``"type"`` (str: ``"tcp"``, ``"unix"``...) by convention; each may be missing.
        write_buffer: output that the default :meth:`write_ready` drains.
        closed: True as soon as the connection is closed.
        cancel_on_disconnect: (of the class) whether tasks are cancelled when the connection ends.
        close_reason: why it is, as :meth:`connection_lost` is called; None before. ``"closed"``: by
            its protocol, or by somebody's ``close``. ``"peer_closed"``: by the peer, and then by
            the protocol. ``"reset"``: the peer is gone, or the network to it. ``"idle"``,
            ``"stalled"``: a timeout. ``"exception"``: a callback raised, or returned no action.
            ``"stopped"``, ``"killed"``: its context was. Driven by hand, it is one of the first two
            (``"exception"`` if ``connection_made`` raised).
        close_errno: what the system said of a connection that was ``"reset"``, ``errno.ECONNRESET``
            say; 0 where nothing is known.
        peer_closed: True as soon as it is known that the peer sends no more, in whatever mode; what
            it sent before may still have to be delivered, and it may still read.
        handle: names this connection and no later one, wherever a number does; None before it is
            made, kept after it is closed.

    The callbacks return an action (:data:`erlang.reactor.Action`). Overrides are annotated
    ``-> Action``, or not at all; the type checker then looks at each value.
    """

    __slots__ = ("_extra", "_handle", "client_info", "close_errno", "close_reason", "closed", "fd", "peer_closed", "write_buffer")

    fd: int
    client_info: dict[str, Any]
    close_errno: int
    close_reason: str | None
    closed: bool
    peer_closed: bool
    write_buffer: bytearray
    handle = _Handle()
    cancel_on_disconnect: ClassVar[bool] = True
    _handle: tuple[int, int, int] | None
    _extra: dict[str, Any]

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        self = super().__new__(cls)
        self.fd = -1
        self.client_info = {}
        self.close_errno = 0
        self.close_reason = None
        self.closed = False
        self.peer_closed = False
        self.write_buffer = bytearray()
        self._handle = None
        self._extra = {}
        return self

    def __init__(self) -> None:
        super().__init__()

    def connection_made(self, fd: int, client_info: dict[str, Any]) -> None:
        """The connection is there. Called once, first of all.

        If it raises, the connection is closed and :meth:`connection_lost` is not called.
        """
        self.fd = fd
        self.client_info = client_info

    def data_received(self, data: ReactorBuffer) -> Action:
        """Bytes have arrived; every protocol defines this.

        Args:
            data: at least one byte, of no meaningful length: messages arrive split and joined.
                It never changes and may be kept as long as you like, but under the reactor a kept
                buffer, slice of its ``memoryview()`` included, holds back memory that the kernel
                receives into, a whole receive buffer (16 KiB by default) even for one byte.
                When many are held, new data is copied instead. To keep bytes for longer than the
                callback, copy them: ``bytes(data)``, ``data[2:8]``, ``bytearray.extend(data)``.

        Returns:
            ``"continue"`` or ``"read_pending"``: go on reading. ``"write_pending"``: call
            :meth:`write_ready`, and deliver no more data until that returns to reading.
            ``"async_pending"``: wait for :func:`erlang.reactor.signal_write_ready`.
            ``"close"``: deliver what :meth:`write` accepted, then close. Anything else is a
            programming error which closes the connection.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define data_received()")

    def write_ready(self) -> Action:
        """The connection can take data. By default: writes out ``write_buffer``.

        Returns:
            ``"continue"``: call again once there is room (here: bytes are left).
            ``"read_pending"``: back to reading (here: all is written).
            ``"write_pending"``: call again as soon as possible. ``"close"``: as above.

        Raises:
            TypeError: ``write_buffer`` is not a bytearray.
            BufferError: somebody holds a view of it. Nothing was written.
        """
        buffer: object = self.write_buffer
        if not isinstance(buffer, bytearray):
            raise TypeError(f"write_buffer must be a bytearray, not {type(buffer).__name__}")
        if buffer:
            drain_by_write(self, buffer)
        return "continue" if self.write_buffer else "read_pending"

    def eof_received(self) -> Action:
        """The peer will send nothing more, but may still read.

        Returns:
            An action, as from :meth:`data_received`; ``"close"`` by default.
        """
        return "close"

    def datagram_received(self, data: ReactorBuffer, addr: Any, /) -> Action:
        """A datagram has arrived on a datagram socket: whole, perhaps empty.

        By default calls :meth:`data_received` with the data alone; :meth:`write` then answers the
        sender. A protocol that wants the address defines this method instead.

        Args:
            data: as for :meth:`data_received`.
            addr: the sender as the ``socket`` module writes it: ``(host, port)``, for IPv6
                ``(host, port, flowinfo, scope_id)``, the path of a Unix socket, or None.

        Returns:
            An action, as from :meth:`data_received`.
        """
        return self.data_received(data)

    def error_received(self, exc: OSError, /) -> None:
        """A datagram could not be sent or was refused by its receiver; the socket goes on."""

    def message_received(self, message: Any, /) -> Action:
        """A message from Erlang (``py_reactor_context:notify/3``) or from another protocol.

        Comes in any mode, between two other callbacks, in the order in which messages were sent;
        never before :meth:`connection_made` has returned, nor once the connection is being closed.

        Args:
            message: what Erlang sent, converted; or the very object that was given to
                :func:`erlang.reactor.notify`.

        Returns:
            An action, as from :meth:`data_received`, but ``"continue"`` leaves the mode as it is.
            By default drops the message, says in the log, once for each class, that it does, and
            returns ``"continue"``.
        """
        say_unaware(type(self))
        return "continue"

    def connection_lost(self) -> None:
        """The connection is gone. Called last, once for each connection_made() that returned."""

    def read(self, size: int = 65536) -> bytes | None:
        """Read what has arrived and was not delivered, at most ``size`` bytes (at least 1).

        Returns:
            None when there is nothing now; b"" at the end of the input, on an error, and once
            the connection is closed.

        Raises:
            ValueError: ``size`` is not positive.
        """
        if size < 1:
            raise ValueError(f"size must be positive, not {size}")
        if self.closed:
            return b""
        if (wire := in_memory.get(self.fd)) is not None:
            return wire.read_now(size)
        try:
            return os.read(self.fd, size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self, data: Buffer, /) -> int:
        """Write any contiguous bytes-like object.

        Returns:
            How many bytes were accepted, from the start of ``data``; the rest is the caller's to
            write again later. 0 when there is no room now, when the peer is gone (the connection
            then ends by itself) and once the connection is closed.

        Raises:
            TypeError, BufferError: ``data`` is not bytes-like, or not contiguous.
        """
        if self.closed:
            return 0
        if (wire := in_memory.get(self.fd)) is not None:
            return wire.write_now(data)
        try:
            return os.write(self.fd, data)
        except OSError:
            return 0

    def write_eof(self) -> None:
        """End the output of a stream socket: what :meth:`write` has accepted is delivered, then the peer hears the end.

        :meth:`write` accepts nothing more, and reading goes on; once the peer has ended its output, too, the
        connection is over.

        Raises:
            TypeError: not a stream socket.
        """
        if self.closed:
            return
        if (wire := in_memory.get(self.fd)) is not None:
            wire.ended = True
        else:
            end_output(self.fd)

    def sendto(self, data: Buffer, addr: Any = None, /) -> int:
        """Send one datagram.

        Args:
            data: any contiguous bytes-like object, sent whole or not at all.
            addr: the destination, in the form that :meth:`datagram_received` gets. Names are not
                looked up. None: the socket's peer or, on one that is not connected, the sender of
                the last datagram.

        Returns:
            ``len(data)``, or 0 when there is no room now or the socket is closed.

        Raises:
            TypeError, ValueError: ``data`` is not bytes-like, or ``addr`` is no address.
        """
        return 0 if self.closed else send_datagram(self.fd, data, addr)

    def signal_write_ready(self) -> bool:
        """As :func:`erlang.reactor.signal_write_ready` of this connection; from any thread.

        Never reaches a later connection with the same number.

        Returns:
            Whether the connection is there.
        """
        return _by_hand.signal(self._handle)

    def close(self) -> None:
        """As :func:`erlang.reactor.close_connection` of this connection; from any thread."""
        _by_hand.close(self._handle)

    def create_task(self, coro: Coroutine[Any, Any, _Result], /) -> asyncio.Task[_Result]:
        """Begin a task that ends with the connection.

        It runs in the connection's own context variables. When the connection ends it is cancelled,
        unless it has closed that itself, or the class says ``cancel_on_disconnect = False``; then
        :meth:`connection_lost` comes. What it raises costs the connection.

        Raises:
            RuntimeError: there is no connection (any more), or this is not its context's thread.
        """
        return _by_hand.create_task(self._handle, coro)

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> asyncio.TimerHandle:
        """Have ``callback(*args)`` called in ``delay`` seconds, unless the connection ends before.

        Raises:
            RuntimeError: there is no connection (any more), or this is not its context's thread.
        """
        return _by_hand.call_later(self._handle, delay, callback, args)

    def notify(self, message: Any, /) -> bool:
        """As :func:`erlang.reactor.notify` to this connection; from any thread."""
        return _by_hand.notify(self._handle, message)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What else is known of the connection, under asyncio's names.

        Args:
            name: ``"peername"`` or ``"sockname"``, an address as the ``socket`` module writes it;
                ``"socket"``, a socket object of its own over a duplicate, to look at and to set
                options of: closing it closes nothing else, and it is closed for you after
                :meth:`connection_lost`; ``"pipe"``, a file of the same kind, on a pipe or terminal.
            default: the answer to all other names, and where there is no such thing.

        Returns:
            What was found, once and for all; after the connection is gone what was asked before,
            and the peer of a TCP connection as ``client_info`` has it.
        """
        duplicate = None
        if self._handle is not None and not self.closed and self._handle[0] not in in_memory:
            duplicate = os.dup(self._handle[0])
        return _extra_info.get(duplicate, self._extra, self.client_info, name, default)


in_memory: dict[int, Wire] = {}  # connections of erlang.testing, which have no descriptor


def drain_by_write(protocol: Protocol, buffer: bytearray) -> None:
    """Write ``write_buffer`` and cut it by what was taken, whatever ``write`` does to it meanwhile."""
    with builtins.memoryview(buffer) as view:
        data = bytes(view)
    bytearray.clear(buffer)
    written = 0
    try:
        written = protocol.write(data)
    finally:
        rest = data[written:]
        try:
            bytearray.__setitem__(buffer, slice(0, 0), rest)
        except BufferError:
            protocol.write_buffer = bytearray(rest + bytes(buffer))


_unaware: set[type[Protocol]] = set()


def say_unaware(cls: type[Protocol]) -> None:
    """Log, once for each class, that it does not define ``message_received``."""
    if cls not in _unaware:
        _unaware.add(cls)
        logging.getLogger("erlang.reactor").error(
            "%s.%s does not define message_received(self, message): messages to it are dropped",
            cls.__module__,
            cls.__qualname__,
        )


def end_output(fd: int) -> None:
    """End the output of a descriptor that is driven by hand."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise TypeError("write_eof() is for stream sockets; close() ends the output of a pipe")
    with socket.socket(fileno=os.dup(fd)) as duplicate:
        if duplicate.type != socket.SOCK_STREAM:
            raise TypeError("write_eof() is for stream sockets")
        with contextlib.suppress(OSError):
            duplicate.shutdown(socket.SHUT_WR)


def send_datagram(fd: int, data: Buffer, addr: Any) -> int:
    """Send one datagram on a descriptor that is driven by hand."""
    with socket.socket(fileno=os.dup(fd)) as duplicate:
        try:
            return duplicate.send(data) if addr is None else duplicate.sendto(data, addr)
        except OSError:
            return 0


@final
class ReactorBuffer(bytes):
    """Received bytes: usable wherever ``bytes`` are, and equal to them in all they answer."""

    __slots__ = ()

    def __new__(cls, data: Buffer = b"") -> Self:
        # The view refuses what bytes() would take for a length or a sequence of numbers.
        return super().__new__(cls, builtins.memoryview(data))

    @classmethod
    def fromhex(cls, string: str, /) -> bytes:  # type: ignore[override]
        """As ``bytes.fromhex``: plain bytes."""
        return bytes.fromhex(string)

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        # Pickled and copied as bytes: whoever loads them needs no reactor.
        return bytes, (bytes(self),)

    def memoryview(self) -> builtins.memoryview:
        """A read-only view of the bytes, without a copy; the same as ``memoryview(data)``."""
        return builtins.memoryview(self)


class Interrupted(KeyboardInterrupt):
    """Raised in Python code that ``py_reactor_context:interrupt/1`` ends."""


def set_protocol_factory(factory: Callable[[], Protocol]) -> bool:
    """Store the factory in this thread's context; False: there is none."""
    return False


def get_protocol_factory() -> Callable[[], Protocol] | None:
    """The factory of this thread's context."""
    return None


def end_by_hand(proto: Protocol, /) -> None:
    """The connection is gone: close what ``get_extra_info`` has opened."""
    _extra_info.close(proto._extra)


def get_protocol(connection: int | tuple[int, int, int]) -> Protocol | None:
    """The protocol that a reactor serves it with."""
    return None


def signal_write_ready(connection: int | tuple[int, int, int]) -> bool:
    """Tell the reactor that serves it; False: none does."""
    return False


def close_connection(connection: int | tuple[int, int, int]) -> bool:
    """Close a connection that a reactor serves; False: none does."""
    return False


def is_served(connection: int | tuple[int, int, int]) -> bool:
    """Whether a reactor thread serves it."""
    return False


_serials = itertools.count(1)


def drive_by_hand(proto: Protocol, fd: int, info: dict[str, Any], /) -> tuple[int, int, int]:
    """Have ``proto`` serve ``fd``, perhaps not for the first time. Answers its handle."""
    proto.fd, proto.client_info = fd, info
    proto.closed, proto.peer_closed = False, False
    proto.close_reason, proto.close_errno = None, 0
    proto._handle, proto._extra = (fd, 0, next(_serials)), {}
    return proto._handle


def notify(connection: int | tuple[int, int, int], message: Any, /) -> bool:
    """Leave a message for a protocol that a reactor serves; False: none does."""
    return False


def connection_handle(connection: int | tuple[int, int, int], /) -> tuple[int, int, int] | None:
    """The name of the connection that a reactor serves; None: none does."""
    return None


def send(to: Pid | str | tuple[str, str], term: Any, /) -> None:
    """There are no Erlang processes here."""
    raise RuntimeError("erlang.send() works inside the Erlang VM only; this is a plain Python interpreter")


def call(name: str, args: tuple[Any, ...], timeout: float | None, /) -> tuple[str, Any]:
    """There are no Erlang functions here."""
    raise RuntimeError("erlang.call() works inside the Erlang VM only; this is a plain Python interpreter")


def call_async(name: str, args: tuple[Any, ...], answered: Callable[[tuple[str, Any]], None], /) -> int:
    """There are no contexts here."""
    raise RuntimeError("erlang.call_async() works inside the Erlang VM only; this is a plain Python interpreter")


def forget_call(number: int, /) -> None:
    """There are no contexts here."""


def own_pid() -> Pid | None:
    """There is no Erlang process here."""
    raise RuntimeError("erlang.self() works inside the Erlang VM only; this is a plain Python interpreter")


def event_loop() -> None:
    """No context, no loop of one."""
    return None
