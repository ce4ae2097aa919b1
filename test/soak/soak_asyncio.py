"""What one context of the soak serves by asyncio: streams, a protocol, datagrams. Another one awaits in its callbacks."""

import asyncio
import collections
import contextlib
import contextvars
import gc
import random
import socket

import soak_protocols
from soak_protocols import GENERATED, HEADER, MAGIC, Direct, generated_block

import erlang
import erlang.reactor as reactor

PATIENCE_SECONDS = 3600


def part(block, sent, limit):
    """The next piece of what is generated."""
    start = sent % GENERATED
    return block[start : start + min(limit - sent, 16384 + sent % 7777)]


# Streams.


async def serve_stream(reader, writer):
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        magic, mode, limit, seed = HEADER.unpack(await reader.readexactly(HEADER.size))
        assert magic == MAGIC
        if mode == b"G":
            await generate(writer, limit, seed)
        elif mode == b"N":
            while await reader.read(random.randrange(1, 100_000)):
                await asyncio.sleep(random.random() * 0.01)
        else:
            await echo(reader, writer)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def echo(reader, writer):
    while True:
        async with asyncio.timeout(PATIENCE_SECONDS):
            data = await reader.read(random.choice((100, 65536)))
        if not data:
            break
        writer.write(data)
        if random.random() < 0.9:
            await writer.drain()


async def generate(writer, limit, seed):
    block, sent = generated_block(seed), 0
    while sent < limit:
        piece = part(block, sent, limit)
        sent += len(piece)
        writer.write(piece)
        await writer.drain()


# A protocol.


class Served(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.header = b""
        self.mode = None
        self.limit = self.sent = 0
        self.paused = False
        loop = asyncio.get_running_loop()
        # What is made for each connection, and never comes to pass.
        self.timer = loop.call_later(PATIENCE_SECONDS, transport.abort)

    def connection_lost(self, exc):
        self.timer.cancel()
        self.transport = None

    def data_received(self, data):
        if self.mode is None:
            self.header += data
            if len(self.header) < HEADER.size:
                return
            magic, self.mode, self.limit, seed = HEADER.unpack(self.header[: HEADER.size])
            assert magic == MAGIC
            data = self.header[HEADER.size :]
            if self.mode == b"G":
                self.block = generated_block(seed)
                self.go_on()
        if self.mode not in b"GN":
            self.transport.write(data)

    def go_on(self):
        # Whoever writes on to a transport that is lost is told so in the log, again and again.
        while self.mode == b"G" and not self.paused and not self.transport.is_closing():
            if self.sent == self.limit:
                self.mode = b"N"
                self.transport.close()
                return
            piece = part(self.block, self.sent, self.limit)
            self.sent += len(piece)
            self.transport.write(piece)

    def eof_received(self):
        # What is generated is owed even so.
        return self.mode == b"G"

    def pause_writing(self):
        self.paused = True
        if self.mode != b"G":
            self.transport.pause_reading()

    def resume_writing(self):
        self.paused = False
        if self.mode != b"G":
            self.transport.resume_reading()
        self.go_on()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def serve():
    """Called by Erlang: the ports."""
    global servers
    loop = asyncio.get_running_loop()
    servers = [
        await asyncio.start_server(serve_stream, "127.0.0.1", 0, backlog=1024),
        await loop.create_server(Served, "127.0.0.1", 0, backlog=1024),
    ]
    transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    return [*ports, transport.get_extra_info("sockname")[1]]


# Protocols that await.


class Awaits(Direct):
    async def data_received(self, data):
        data = bytes(data)
        await self.pause()
        action = super().data_received(data)
        if self.mode == b"N":
            # Until its peer resets.
            await asyncio.Event().wait()
        return action

    async def pause(self):
        match random.randrange(8):
            case 0:
                await asyncio.sleep(0)
            case 1:
                await asyncio.sleep(random.random() * 0.004)
            case 2:
                later = asyncio.get_running_loop().create_future()
                self.call_later(0.001, later.set_result, None)
                await later
            case 3:
                await self.create_task(asyncio.sleep(0))

    def serve(self, data):
        if self.mode == b"A":
            return self.put(data)
        return "continue" if self.mode == b"N" else super().serve(data)

    def eof_received(self):
        return "continue" if self.mode == b"N" else super().eof_received()


def awaits(label, seed):
    random.seed(seed)
    soak_protocols.COUNTERS.setdefault("faults " + label, soak_protocols.Counter())
    return type("Awaits", (Awaits,), {"label": label})


def await_in_callbacks(label, seed):
    reactor.set_protocol_factory(awaits(label, seed))


async def tick():
    while True:
        await asyncio.sleep(0.01)


def mix(label, seed):
    """For a context that ends at any time: what then runs, waits and is scheduled has to end with it."""
    classes = [*soak_protocols.mixed(label), awaits(label, seed)]
    reactor.set_protocol_factory(type("Mixed", (soak_protocols.Mixed,), {"classes": classes}))
    reactor.spawn(tick())
    reactor.spawn(asyncio.Event().wait())
    erlang.event_loop().call_later(PATIENCE_SECONDS, print, "too late")


# What is left.

COUNTED = (
    asyncio.BaseTransport,
    asyncio.StreamReader,
    asyncio.StreamWriter,
    asyncio.BaseProtocol,
    asyncio.AbstractEventLoop,
    asyncio.Task,
    asyncio.Future,
    asyncio.Handle,
    reactor.Protocol,
    contextvars.Context,
    socket.socket,
)


COUNT = contextvars.ContextVar("COUNT", default=None)


def mark(count):
    """Called on the thread of each context, at each count: a thread has a `Context` of its own from when it first needs one, which
    no object refers to. It is told apart by what it holds: nobody copies it between this and the count."""
    COUNT.set(count)


def counts(count):
    """Of this context and what is made by asyncio in all of them: tasks, transports and the rest, by kinds."""
    gc.collect()
    loop = erlang.event_loop()
    found = collections.Counter()
    for thing in gc.get_objects():
        if isinstance(thing, contextvars.Context) and thing.get(COUNT) == count:
            found["of threads"] += 1
            continue
        for kind in COUNTED:
            if isinstance(thing, kind):
                found[f"asyncio {kind.__name__}"] += 1
    return {
        "asyncio tasks": len(asyncio.all_tasks(loop)),
        "contexts of threads": found["of threads"],
        **{f"asyncio {kind.__name__}": found[f"asyncio {kind.__name__}"] for kind in COUNTED},
    }
