"""Stream transports over the reactor: native where something is done for each message, as asyncio's own everywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import warnings
from asyncio import base_events, constants, futures, protocols, trsock
from asyncio.log import logger
from contextvars import Context
from typing import TYPE_CHECKING, Any

from erlang._native import native

if TYPE_CHECKING:
    from _py_reactor import Transport as _Native
else:
    _Native = native.transport_type()

# Whether a server does not want to know which transport it has, or has no more.
COUNTS_BY_ITSELF = vars(base_events.Server)["_detach"].__code__.co_argcount == 1


class SocketTransport(_Native):
    """A connection as a program of asyncio sees it. The socket stays the program's; the reactor does what is done with it."""

    _paused_protocol: Any = None
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def __init__(
        self,
        loop: Any,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,
    ) -> None:
        asyncio.BaseTransport.__init__(self, extra)
        known = self._extra
        known["socket"] = trsock.TransportSocket(sock)
        if "sockname" not in known:
            try:
                known["sockname"] = sock.getsockname()
            except OSError:
                known["sockname"] = None
        if "peername" not in known:
            try:
                known["peername"] = sock.getpeername()
            except OSError:
                known["peername"] = None
        # What may be refused comes before there is a connection, which nobody would end.
        connection_made = protocol.connection_made
        self.set_protocol(protocol)
        if server is not None:
            server._attach() if COUNTS_BY_ITSELF else server._attach(self)
        try:
            self._open(loop, sock, server, context, connection_made)
            if waiter is not None:
                loop.call_soon(futures._set_result_unless_cancelled, waiter, None)  # type: ignore[attr-defined]
        except BaseException:
            # Interrupted, perhaps, when it had a connection already, which nobody gets to know.
            self._force_close(None) if self._attached else self._detach(server)
            raise

    def __repr__(self) -> str:
        info = [self.__class__.__name__]
        if not self._has_socket:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        if self._attached:
            info.append("read=polling" if self.is_reading() else "read=idle")
            with contextlib.suppress(RuntimeError):  # It is another thread's.
                size = self.get_write_buffer_size()
                info.append(f"write=<{'polling' if size else 'idle'}, bufsize={size}>")
        return f"<{' '.join(info)}>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Answer what is known by that name."""
        known = self._known()
        if name == "socket" and name not in known:
            known[name] = trsock.TransportSocket(self._sock or _closed_socket())
        return known.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol served from now on."""
        self._set_protocol(protocol, is_buffered(protocol))

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Answer the low and the high mark."""
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks above and below which the protocol is told to pause and to go on."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._set_marks(high, low)

    # Called by native code.

    def _make_socket(self) -> socket.socket:
        sock = socket.socket(fileno=self._sock_fd)
        sock.setblocking(False)
        return sock

    def _unclosed(self, _warn: Any = warnings.warn) -> None:
        try:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        finally:
            if not self._abandon():
                self._close_socket()

    def _pause_protocol(self) -> None:
        self._paused_protocol = self._protocol
        self._tell_writer(self._protocol, "pause_writing")

    def _resume_protocol(self) -> None:
        # Who was paused, which another may have replaced meanwhile: `start_tls` does.
        protocol, self._paused_protocol = self._paused_protocol, None
        self._tell_writer(protocol, "resume_writing")

    def _tell_writer(self, protocol: Any, method: str) -> None:
        try:
            getattr(protocol, method)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._tell(f"protocol.{method}() failed", exc)

    def _tell(self, message: str, exc: BaseException) -> None:
        context = {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._tell(message, exc)
        self._force_close(exc)

    def _lost_failed(self, exc: BaseException) -> None:
        self._tell("Exception in connection_lost()", exc)

    def _written_in_vain(self) -> None:
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self._count_lost()

    def _tell_waiter(self, is_over: bool) -> None:
        waiter = self._empty_waiter
        if waiter is None or waiter.done():
            return
        if is_over:
            waiter.set_exception(ConnectionError("Connection is closed by peer"))
        elif not self.get_write_buffer_size():
            waiter.set_result(None)

    def _close_socket(self) -> None:
        """Close the socket, which nothing of the reactor's names any more."""
        try:
            self._close_it()
        finally:
            self._detach(self._server)
            if self._empty_waiter is not None and not self._empty_waiter.done():
                self._empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))

    def _detach(self, server: Any) -> None:
        if server is not None:
            server._detach() if COUNTS_BY_ITSELF else server._detach(self)

    def _end_unattached(self) -> None:
        """Close what no reactor serves any more, as its loop is closed or runs on another thread now."""
        self._loop.call_soon(self._call_connection_lost, None, context=self._context)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(exc)
        finally:
            self._close_socket()
            self._let_go()

    # What asyncio's sendfile wants.

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._empty_waiter = waiter
        self._lend(True)
        self._tell_waiter(is_over=False)
        return waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None
        self._lend(False)


def is_buffered(protocol: Any) -> bool:
    """Whether it has buffers of its own: as with uvloop, what has the methods of such a protocol will do."""
    is_one = isinstance(protocol, protocols.BufferedProtocol)
    return is_one or (hasattr(protocol, "get_buffer") and not hasattr(protocol, "data_received"))


def _closed_socket() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


class TransportsOfLoop:
    """A loop's transports by the numbers of their sockets: its own, which it knows by itself, and those of asyncio's that it has."""

    def __init__(self, loop: Any, others: Any) -> None:
        self._loop = loop
        self._others = others

    def __getitem__(self, fd: int) -> Any:
        transport = self._loop._transport_of(fd)
        return self._others[fd] if transport is None else transport

    def get(self, fd: int, default: Any = None) -> Any:
        """As a dict does: so asyncio of 3.13 asks."""
        transport = self._loop._transport_of(fd)
        return self._others.get(fd, default) if transport is None else transport

    def __setitem__(self, fd: int, transport: Any) -> None:
        if not isinstance(transport, _Native):
            self._others[fd] = transport

    def __delitem__(self, fd: int) -> None:
        # One of its own is not found while its socket is lent.
        if self._loop._transport_of(fd) is None:
            del self._others[fd]
