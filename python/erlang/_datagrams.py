"""Datagram endpoints of our loops: asyncio's own transport, but that what is done for each datagram is native.

Imports asyncio: nobody may import this who does not use it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio import selector_events
from typing import Any

from erlang._native import native

_SENDS_EMPTY = sys.version_info >= (3, 13)


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
        connected = bool(self._extra["peername"])
        self._datagrams.begin(
            self,
            loop,
            protocol,
            self._buffer,
            sock,
            sock.family == socket.AF_INET6,
            connected,
            _SENDS_EMPTY,
        )
        # Shadows the method, which is for what is not simple.
        self.sendto = self._datagrams.sendto  # type: ignore[method-assign]

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram; none any more once the connection is lost."""
        if self._sock is not None:
            super().sendto(data, addr)

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
        super().close()

    def _force_close(self, exc: BaseException | None) -> None:
        self._datagrams.stop_reading()
        self._datagrams.flush()
        super()._force_close(exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._datagrams.flush()
        self.__dict__.pop("sendto", None)
        self._datagrams.end()
        super()._call_connection_lost(exc)

    # Called by the native half.

    def _sendto(self, *args: Any, **kwargs: Any) -> None:
        type(self).sendto(self, *args, **kwargs)

    def _receive_more(self) -> None:
        self._loop.call_soon(self._read_ready)

    def _flush_later(self) -> None:
        self._loop.call_soon(self._datagrams.flush)

    def _failed(self, errno: int) -> None:
        try:
            self._protocol.error_received(OSError(errno, os.strerror(errno)))
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
            self._loop._add_writer(self._sock_fd, self._sendto_ready)
        for data, addr in datagrams:
            self._buffer.append((data, addr))
            self._buffer_size += len(data) + (8 if _SENDS_EMPTY else 0)
        self._maybe_pause_protocol()
