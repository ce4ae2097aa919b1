"""Programs for asyncio, whatever the loop: what event_loop_server.py serves in a process, and bench_reactor.erl in a context."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from beside import Library, Sink
from http_answers import HttpAnswers
from work import Worker

BACKLOG = 4096

# Or erlang.streams, which has the same functions.
streams: Any = asyncio


class Connection(asyncio.Protocol):
    """A connection whose peer is not read from while it does not read."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Echo(Connection):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Http(HttpAnswers, Connection):
    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer(data))


class Cpu(Worker, Connection):
    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer(data))


class Flooded(Sink, Connection):
    def data_received(self, data: bytes) -> None:
        answer = self.answer(data)
        if answer:
            self.transport.write(answer)


class Document(Library, Connection):
    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer(data))


class Udp(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


STREAMS: dict[str, type[Connection]] = {
    "echo": Echo,
    "http": Http,
    "cpu": Cpu,
    "sink": Flooded,
    "document": Document,
}


async def echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers what the case http does."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


def fastapi_app() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    async def greet() -> dict[str, str]:
        return {"message": "Hello, world!"}

    return app


async def serve_asgi(app: Any, opened: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
        date_header=False,
        server_header=False,
        backlog=BACKLOG,
    )
    await uvicorn.Server(config).serve(sockets=[opened])


def open_socket(case: str, port: int) -> socket.socket:
    """One of those that share a port, which is a free one where that is 0."""
    kind, protocol = (socket.SOCK_DGRAM, socket.IPPROTO_UDP) if case == "udp" else (socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # asyncio sets TCP_NODELAY only where the socket says by its number that it is TCP.
    opened = socket.socket(socket.AF_INET, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind(("127.0.0.1", port))
    opened.setblocking(False)
    if kind is socket.SOCK_STREAM:
        opened.listen(BACKLOG)
    return opened


async def serve(case: str, opened: socket.socket) -> None:
    """Serves until it is cancelled."""
    loop = asyncio.get_running_loop()
    if case == "uvicorn":
        await serve_asgi(hello, opened)
    elif case == "fastapi":
        await serve_asgi(fastapi_app(), opened)
    elif case == "streams":
        await streams.start_server(echo_streams, sock=opened, backlog=BACKLOG)
    elif case == "udp":
        await loop.create_datagram_endpoint(Udp, sock=opened)
    else:
        await loop.create_server(STREAMS[case], sock=opened, backlog=BACKLOG)
    await loop.create_future()


def serve_in_context(case: str, port: int) -> int:
    """Called by Erlang: serves in this context; answers the port."""
    import erlang.reactor as reactor

    opened = open_socket(case, port)
    reactor.on_start(lambda: serve(case, opened))
    return int(opened.getsockname()[1])
