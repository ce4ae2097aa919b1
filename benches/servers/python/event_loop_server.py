"""The servers on event loops of asyncio: ``event_loop_server.py asyncio|uvloop|rloop|loop-uring|loop-epoll CASE``.

CONTEXTS processes, each with an event loop and a socket of its own on one port (SO_REUSEPORT): what
a user of asyncio would start on so many cores. Ends at the end of standard input, and on SIGTERM.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from beside import Library, Sink
from http_answers import HttpAnswers
from work import Worker

BACKLOG = 4096


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


def open_sockets(kind: socket.SocketKind, count: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    # asyncio sets TCP_NODELAY only where the socket says by its number that it is TCP.
    protocol = socket.IPPROTO_TCP if kind is socket.SOCK_STREAM else socket.IPPROTO_UDP
    for _ in range(count):
        opened = socket.socket(socket.AF_INET, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind(sockets[0].getsockname() if sockets else ("127.0.0.1", 0))
        opened.setblocking(False)
        if kind is socket.SOCK_STREAM:
            opened.listen(BACKLOG)
        sockets.append(opened)
    return sockets


async def serve(case: str, opened: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    if case == "udp":
        await loop.create_datagram_endpoint(Udp, sock=opened)
    else:
        await loop.create_server(STREAMS[case], sock=opened, backlog=BACKLOG)
    ended = asyncio.Event()

    def read_input() -> None:
        if not os.read(0, 4096):
            ended.set()

    # Not a thread that reads: a process with two of them pays for the descriptors that they share.
    try:
        loop.add_reader(0, read_input)
    except OSError:
        # A file, or /dev/null: there is nothing to wait for.
        ended.set()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


def fork(serve_one: Callable[[socket.socket], None], sockets: list[socket.socket]) -> None:
    """Serves each socket in a process of its own, and waits for all of them to end."""
    children = []
    for opened in sockets:
        child = os.fork()
        if child == 0:
            for other in sockets:
                if other is not opened:
                    other.close()
            serve_one(opened)
            os._exit(0)
        children.append(child)
    for opened in sockets:
        opened.close()

    def pass_on(number: int, _frame: object) -> None:
        for child in children:
            os.kill(child, number)

    signal.signal(signal.SIGTERM, pass_on)
    for child in children:
        os.waitpid(child, 0)


def event_loops(kind: str) -> tuple[Callable[[], asyncio.AbstractEventLoop], str]:
    """What makes loops of this kind, and its version."""
    if kind == "asyncio":
        return asyncio.new_event_loop, "asyncio"
    if kind in ("uvloop", "rloop"):
        library = importlib.import_module(kind)
        return library.new_event_loop, f"{kind} {metadata.version(kind)}"
    root = Path(__file__).resolve().parents[3]
    sys.path[:0] = [str(root / "python"), str(root / "priv" / "alone")]
    import erlang

    backend = kind.removeprefix("loop-")
    return functools.partial(erlang.new_event_loop, backend=backend), f"py_reactor, {backend}"


def main() -> None:
    kind, case = sys.argv[1:]
    contexts = int(os.environ.get("CONTEXTS", "1"))
    new_loop, version = event_loops(kind)
    sockets = open_sockets(socket.SOCK_DGRAM if case == "udp" else socket.SOCK_STREAM, contexts)

    def serve_one(opened: socket.socket) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve(case, opened))

    announcement = {
        "port": sockets[0].getsockname()[1],
        "pid": os.getpid(),
        "version": f"{version}, Python {platform.python_version()}",
    }
    print(json.dumps(announcement), flush=True)
    if contexts == 1:
        serve_one(sockets[0])
    else:
        fork(serve_one, sockets)


main()
