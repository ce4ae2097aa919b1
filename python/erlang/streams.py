"""asyncio's streams, faster: ``open_connection`` and ``start_server`` with the same readers and writers, of which what is done
for each message is native. What is awaited there and needs no waiting is there at once.

A reader is a ``asyncio.StreamReader``, a writer a ``asyncio.StreamWriter``; what they are made of (``_buffer`` and its like) is not.
They work on every event loop, and are asyncio's own where there is no native module.
"""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from erlang._native import native

if TYPE_CHECKING:
    import os
    import ssl

    from _py_reactor import Stream as _Stream

    _Callback = Callable[["StreamReader", "StreamWriter"], Awaitable[None] | None]
else:
    _Stream = native.stream_type() if hasattr(native, "stream_type") else object

__all__ = [
    "StreamReader",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]

_LIMIT = 2**16


class StreamReader(_Stream, asyncio.StreamReader):  # type: ignore[misc]
    """Reads what a connection has received: see ``asyncio.StreamReader``.

    ``readuntil`` takes a tuple of separators on every Python.
    """

    def __init__(self, limit: int = _LIMIT, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = asyncio.get_running_loop() if loop is None else loop
        self._begin(limit, self._loop.create_future)

    # Programs set them.

    @property
    def _limit(self) -> int:
        return self._get_limit()

    @_limit.setter
    def _limit(self, limit: int) -> None:
        self._set_limit(limit)

    @property
    def _transport(self) -> Any:
        return self._get_transport()

    @_transport.setter
    def _transport(self, transport: Any) -> None:
        self.set_transport(transport)

    def __repr__(self) -> str:
        exc = self.exception()
        info = ["StreamReader", f"{self._unread()} bytes"]
        info += ["eof"] if self.at_eof() else []
        info += [f"exception={exc!r}"] if exc is not None else []
        return f"<{' '.join(info)}>"


class StreamWriter(asyncio.StreamWriter):
    """Writes to a connection: see ``asyncio.StreamWriter``."""

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        reader: asyncio.StreamReader | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(transport, protocol, reader, loop)
        self._serve()

    @property
    def _transport(self) -> Any:
        return self._through

    @_transport.setter
    def _transport(self, transport: Any) -> None:
        # Programs set it, too, to go on with TLS.
        self._through = transport
        self._serve()

    def _serve(self) -> None:
        """Shadow the methods, unless a subclass has its own."""
        own, has = type(self), self.__dict__
        if own.write is StreamWriter.write:
            has["write"] = self._through.write
        protocol, reader = has.get("_protocol"), has.get("_reader")
        if not isinstance(reader, StreamReader) or own.drain is not StreamWriter.drain:
            return
        # Only of what feeds and drains this reader it is known whether there is anything to wait for.
        if isinstance(protocol, StreamProtocol) and protocol._feeds(reader):
            # They do not keep the writer, which ends as asyncio's does when nobody has it any more.
            slowly = functools.partial(_drain, self._through, protocol, reader)
            has["drain"] = functools.partial(reader._drain, self._through, slowly)

    async def start_tls(self, sslcontext: ssl.SSLContext, **options: Any) -> None:
        """Go on with TLS."""
        await super().start_tls(sslcontext, **options)
        reader: Any = self._reader  # type: ignore[attr-defined]
        if reader is not None:
            reader._transport = self.transport


def _drain(transport: Any, protocol: StreamProtocol, reader: StreamReader) -> Awaitable[None]:
    writer: Any = types.SimpleNamespace(_transport=transport, _protocol=protocol, _reader=reader)
    return asyncio.StreamWriter.drain(writer)


# Before 3.13 the protocol of a server keeps the writer.
_KEEPS_WRITER = hasattr(asyncio.StreamReaderProtocol, "_replace_writer")


class StreamProtocol(asyncio.StreamReaderProtocol):
    """Feeds a reader."""

    def __init__(
        self,
        reader: StreamReader,
        client_connected_cb: _Callback | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(reader, client_connected_cb, loop)  # type: ignore[arg-type]
        if type(reader).feed_data is StreamReader.feed_data:
            self.data_received = reader._feeder()  # type: ignore[method-assign, assignment]

    def _feeds(self, reader: StreamReader) -> bool:
        return self._stream_reader is reader  # type: ignore[attr-defined]

    def connection_made(self, transport: Any) -> None:
        """Have the callback of a server run."""
        reader: Any = self._stream_reader  # type: ignore[attr-defined]
        connected, self._client_connected_cb = self._client_connected_cb, None  # type: ignore[has-type]
        super().connection_made(transport)
        if connected is None or reader is None or self._reject_connection:  # type: ignore[attr-defined]
            return
        # `start_tls` asks which side it is.
        self._client_connected_cb = connected
        writer = StreamWriter(transport, self, reader, self._loop)  # type: ignore[attr-defined]
        if _KEEPS_WRITER:
            self._stream_writer = writer
        ended = functools.partial(_ended, transport)
        answer = connected(reader, writer)
        if asyncio.iscoroutine(answer):
            self._task = self._loop.create_task(answer)  # type: ignore[attr-defined]
            self._task.add_done_callback(ended)
        self._strong_reader = None

    def pause_writing(self) -> None:
        """What is written finds no room."""
        super().pause_writing()
        self._set_busy(True)

    def resume_writing(self) -> None:
        """There is room again."""
        super().resume_writing()
        self._set_busy(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._set_busy(True)
        super().connection_lost(exc)

    def _set_busy(self, busy: bool) -> None:
        reader = self._stream_reader  # type: ignore[attr-defined]
        if reader is not None:
            reader._set_busy(busy)


def _ended(transport: asyncio.WriteTransport, task: asyncio.Task[None]) -> None:
    if task.cancelled():
        transport.close()
        return
    exc = task.exception()
    if exc is not None:
        task.get_loop().call_exception_handler(
            {"message": "Unhandled exception in client_connected_cb", "exception": exc, "transport": transport}
        )
        transport.close()


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = _LIMIT, **options: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect: see ``asyncio.open_connection``."""
    loop = asyncio.get_running_loop()
    return await _opened(limit, lambda factory: loop.create_connection(factory, host, port, **options))  # type: ignore[arg-type]


async def open_unix_connection(
    path: str | os.PathLike[str] | None = None, *, limit: int = _LIMIT, **options: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect to a Unix socket: see ``asyncio.open_unix_connection``."""
    loop = asyncio.get_running_loop()
    return await _opened(limit, lambda factory: loop.create_unix_connection(factory, path, **options))  # type: ignore[arg-type]


async def _opened(limit: int, connect: Callable[[Any], Awaitable[Any]]) -> tuple[StreamReader, StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit, loop)
    protocol = StreamProtocol(reader, loop=loop)
    transport, _ = await connect(lambda: protocol)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: _Callback,
    host: str | list[str] | None = None,
    port: int | str | None = None,
    *,
    limit: int = _LIMIT,
    **options: Any,
) -> asyncio.Server:
    """Serve: see ``asyncio.start_server``."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(_factory(client_connected_cb, limit, loop), host, port, **options)  # type: ignore[arg-type]


async def start_unix_server(
    client_connected_cb: _Callback, path: str | os.PathLike[str] | None = None, *, limit: int = _LIMIT, **options: Any
) -> asyncio.Server:
    """Serve a Unix socket: see ``asyncio.start_unix_server``."""
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(_factory(client_connected_cb, limit, loop), path, **options)


def _factory(
    client_connected_cb: _Callback, limit: int, loop: asyncio.AbstractEventLoop
) -> Callable[[], StreamProtocol]:
    return lambda: StreamProtocol(StreamReader(limit, loop), client_connected_cb, loop)


if not TYPE_CHECKING and _Stream is object:
    from asyncio import (  # noqa: F811
        StreamReader,
        StreamWriter,
        open_connection,
        open_unix_connection,
        start_server,
        start_unix_server,
    )
