"""TLS over our transports: asyncio's own, but for whom it calls in which context, and for how it begins and ends.

Imports asyncio: nobody may import this who does not use it.
"""

from __future__ import annotations

import contextlib
import contextvars
from asyncio import sslproto, streams
from typing import Any

from erlang._native import native
from erlang._transports import is_buffered

# Whose attributes no stub knows as they are since 3.11.
_Asyncios: Any = sslproto.SSLProtocol
_State = sslproto.SSLProtocolState
_Again: Any = getattr(sslproto, "SSLAgainErrors", ())


class TlsProtocol(_Asyncios):  # type: ignore[misc]
    """What a transport delivers to, which speaks TLS with the peer and plainly with the program's protocol.

    Once the program has closed it nothing is delivered any more, and what was written leaves, before the connection is closed.
    """

    # Of the connection: all that is called of the protocol is called in it.
    _context: contextvars.Context | None = None
    _app_reading_paused: bool
    _is_closed = False
    _is_unwrapped = False
    _has_more = False

    def connection_made(self, transport: Any) -> None:
        """Begin the handshake."""
        context = getattr(transport, "_context", None)
        self._context = contextvars.copy_context() if context is None else context
        # Whoever has TLS over this asks for it.
        self._app_transport._context = self._context
        super().connection_made(transport)

    def _set_app_protocol(self, protocol: Any) -> None:
        super()._set_app_protocol(protocol)
        if is_buffered(protocol):
            self._app_protocol_get_buffer = protocol.get_buffer
            self._app_protocol_buffer_updated = protocol.buffer_updated
            self._app_protocol_is_buffer = True

    # The handshake.

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        if handshake_exc is not None or self._app_state is not sslproto.AppProtocolState.STATE_CON_MADE:
            super()._on_handshake_complete(handshake_exc)
            return
        # Whoever has called start_tls is to have the transport before the protocol is called with what came along.
        self._do_read = _nothing
        try:
            super()._on_handshake_complete(None)
        finally:
            del self._do_read
        if self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_soon(self._read_first)

    def _read_first(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()
            self._go_on()

    # Reading.

    def _resume_reading(self) -> None:
        if self._app_reading_paused:
            self._app_reading_paused = False
            self._loop.call_soon(self._go_on, context=self._context)

    def _go_on(self) -> None:
        if self._state is _State.WRAPPED:
            self._do_read()
        elif self._state is _State.FLUSHING:
            self._do_flush()
        elif self._state is _State.SHUTDOWN:
            self._do_shutdown()

    def _do_read__buffered(self) -> None:
        # Not asyncio's, which loses what it reads into slices of a bytearray.
        filled, count = 0, 1
        buffer = self._app_protocol_get_buffer(self._get_read_buffer_size())
        with memoryview(buffer) as whole, whole.cast("B") as room:
            if not room:
                raise RuntimeError("get_buffer() returned an empty buffer")
            with contextlib.suppress(*_Again):
                while filled < len(room) and (count := self._sslobj.read(len(room) - filled, room[filled:])):
                    filled += count
            self._has_more = filled == len(room)
        if self._has_more:
            self._loop.call_soon(self._go_on)
        if filled:
            self._app_protocol_buffer_updated(filled)
        if not count:
            # close_notify
            self._call_eof_received()
            self._start_shutdown()

    # Writing.

    def _control_app_writing(self) -> None:
        size = self._get_write_buffer_size()
        if size <= self._outgoing_low_water if self._app_writing_paused else size >= self._outgoing_high_water:
            # Whoever writes may be in another context.
            native.within(self._context, super()._control_app_writing)

    def resume_writing(self) -> None:
        """Go on with what found no room."""
        super().resume_writing()
        if self._state is not _State.WRAPPED:
            self._go_on()

    # The end.

    def eof_received(self) -> bool | None:
        """Deliver what came before the end of the connection, which closes itself unless there is something to wait for."""
        stays: bool | None = super().eof_received()
        ends = self._state is _State.FLUSHING or self._state is _State.SHUTDOWN
        return stays or (ends and (self._state is _State.FLUSHING or self._get_write_buffer_size() > 0))

    def _start_shutdown(self) -> None:
        self._is_closed = True
        if self._state is _State.FLUSHING and self._eof_received:
            # It has ended while reading was paused, and nobody waits for what came before.
            native.within(self._context, self._do_flush)
        else:
            native.within(self._context, super()._start_shutdown)

    def _do_flush(self) -> None:
        if self._is_closed:
            try:
                self._discard()
                self._do_write()
            except Exception as exc:
                self._fatal_error(exc, "Fatal error on SSL protocol")
                return
        else:
            self._has_more = False
            self._do_read()
            if self._app_reading_paused or self._has_more:
                return
        if self._state is _State.FLUSHING and not self._get_write_buffer_size():
            self._set_state(_State.SHUTDOWN)
            self._do_shutdown()

    def _do_shutdown(self) -> None:
        try:
            if not self._eof_received and not self._is_unwrapped:
                # unwrap() refuses to go on over what was received.
                self._discard()
                self._sslobj.unwrap()
                self._is_unwrapped = True
        except _Again:
            self._process_outgoing()
            self._control_ssl_reading()
        except sslproto.ssl.SSLError as exc:  # type: ignore[attr-defined]
            self._on_shutdown_complete(exc)
        else:
            self._process_outgoing()
            self._call_eof_received()
            if not self._get_write_buffer_size():
                self._on_shutdown_complete(None)

    def _discard(self) -> None:
        """Throw away what was received."""
        with contextlib.suppress(*_Again):
            # Who has said its end itself is told of the peer's by an exception.
            with contextlib.suppress(sslproto.ssl.SSLZeroReturnError):  # type: ignore[attr-defined]
                while self._sslobj.read(self.max_size):
                    pass
            self._call_eof_received()


async def start(
    loop: Any, transport: Any, protocol: Any, sslcontext: Any, server_side: bool, hostname: str | None, timeouts: dict[str, Any]
) -> Any:
    """Go on with TLS over a transport; answer the transport that stands for it: the ``start_tls`` of a loop."""
    ssl: Any = sslproto.ssl  # type: ignore[attr-defined]
    if ssl is None:
        raise RuntimeError("Python ssl module is not available")
    if not isinstance(sslcontext, ssl.SSLContext):
        raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    waiter = loop.create_future()
    tls = TlsProtocol(loop, protocol, sslcontext, waiter, server_side, hostname, call_connection_made=False, **timeouts)
    if server_side and isinstance(protocol, streams.StreamReaderProtocol):
        tls._incoming.write(await _unread(protocol))
    # Nothing is received before it is begun.
    transport.pause_reading()
    transport.set_protocol(tls)
    beginning = loop.call_soon(tls.connection_made, transport)
    resuming = loop.call_soon(transport.resume_reading)
    try:
        await waiter
    except BaseException:
        transport.close()
        beginning.cancel()
        resuming.cancel()
        raise
    return tls._app_transport


async def _unread(protocol: Any) -> bytes:
    """What its reader was fed, and nobody has read: the beginning of TLS. As plain data it would pass for what came by TLS."""
    reader = getattr(protocol, "_stream_reader", None)
    if reader is None:
        return b""
    buffer = getattr(reader, "_buffer", None)
    if buffer is None:
        # One of erlang.streams, which waits for nothing that is there.
        size = reader._unread()
        return bytes(await reader.read(size)) if size else b""
    unread = bytes(buffer)
    buffer.clear()
    return unread


def _nothing() -> None:
    pass
