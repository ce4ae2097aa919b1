"""Datagram endpoints of our loops: asyncio's own transport, but that what is done for each datagram is native.

Imports asyncio: nobody may import this who does not use it.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import socket
import sys
from asyncio import selector_events
from typing import Any

from erlang._native import native

_SENDS_EMPTY = sys.version_info >= (3, 13)
_BYTES_LIKE = (bytes, bytearray, memoryview)


class DatagramTransport(selector_events._SelectorDatagramTransport, asyncio.DatagramTransport):  # type: ignore[name-defined, misc]
    """What ``create_datagram_endpoint`` answers."""

    def __init__(
        self,
        loop: Any,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self._datagrams = native.datagrams()
        self._read_ready = self._datagrams.receive
        super().__init__(loop, sock, protocol, address, waiter, extra)  # type: ignore[call-arg]
        # All is called in it.
        self._context = contextvars.copy_context()
        # The other end of a pair has no name.
        self._is_connected = self._extra["peername"] is not None
        self._datagrams.begin(
            self,
            loop,
            protocol,
            self._buffer,
            sock,
            sock.family == socket.AF_INET6,
            self._is_connected,
            _SENDS_EMPTY,
        )
        # Shadows the method, which is for what is not simple.
        self.sendto = self._datagrams.sendto  # type: ignore[method-assign]

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram; none any more once the connection is lost."""
        if self._sock is None:
            return
        if self._extra["peername"] or not self._is_connected or addr is not None or not isinstance(data, _BYTES_LIKE):
            super().sendto(data, addr)
        elif not self._buffer:
            self._datagrams.sendto(bytes(data))
        elif data or _SENDS_EMPTY:
            self._wait_for_room([(bytes(data), None)])

    def _sendto_ready(self) -> None:
        waiting, self._buffer_size = list(self._buffer), 0
        self._buffer.clear()
        for data, addr in waiting:
            # Who is told of an error may have aborted it.
            if not self._conn_lost:
                self._datagrams.sendto(data, None if self._is_connected else addr)
        self._datagrams.flush()
        self._maybe_resume_protocol()
        if not self._buffer and not self._conn_lost:
            self._loop._remove_writer(self._sock_fd)
            if self._closing:
                self._call_connection_lost(None)

    def _add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        if not self._closing:
            self._loop._add_reader(fd, callback, *args, context=self._context)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to another protocol."""
        super().set_protocol(protocol)
        self._datagrams.set_protocol(protocol)

    def get_write_buffer_size(self) -> int:
        """How many bytes wait for room."""
        self._datagrams.flush()
        return int(super().get_write_buffer_size())

    def close(self) -> None:
        """Receive no more; what was sent leaves."""
        self._datagrams.stop_reading()
        self._datagrams.flush()
        native.within(self._context, super().close)

    def _force_close(self, exc: BaseException | None) -> None:
        self._datagrams.stop_reading()
        self._datagrams.flush()
        native.within(self._context, functools.partial(super()._force_close, exc))

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._datagrams.flush()
        self.__dict__.pop("sendto", None)
        self._datagrams.end()
        super()._call_connection_lost(exc)

    # Called by the native half.

    def _sendto(self, *args: Any, **kwargs: Any) -> None:
        type(self).sendto(self, *args, **kwargs)

    def _receive_more(self) -> None:
        self._loop.call_soon(self._read_ready, context=self._context)

    def _flush_later(self) -> None:
        self._loop.call_soon(self._datagrams.flush)

    def _failed(self, errno: int) -> None:
        try:
            error = OSError(errno, os.strerror(errno))
            native.within(self._context, functools.partial(self._protocol.error_received, error))
        except Exception as exc:
            self._raised(exc)

    def _raised(self, exc: Exception) -> None:
        self._loop.call_exception_handler(
            {
                "message": f"Exception in a callback of {self._protocol!r}",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )

    def _wait_for_room(self, datagrams: list[tuple[bytes, Any]]) -> None:
        if not self._buffer:
            self._loop._add_writer(self._sock_fd, self._sendto_ready, context=self._context)
        for data, addr in datagrams:
            self._buffer.append((data, addr))
            self._buffer_size += len(data) + (8 if _SENDS_EMPTY else 0)
        native.within(self._context, self._maybe_pause_protocol)
