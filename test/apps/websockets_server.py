"""A server of websockets, which its client talks to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import websockets

import erlang.reactor as reactor


async def echo(ws: websockets.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def serve() -> int:
    server = await websockets.serve(echo, "127.0.0.1", 0)

    @reactor.on_stop
    async def stop() -> None:
        server.close()
        await server.wait_closed()

    return int(next(iter(server.sockets)).getsockname()[1])


async def check(port: int) -> None:
    async def exchange(number: int) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{port}") as ws:
            for size in (1, 1000, 100_000):
                await ws.send(bytes([number]) * size)
                assert await ws.recv() == bytes([number]) * size
            await (await ws.ping())

    await asyncio.gather(*map(exchange, range(10)))


async def watch(port: int, ready: Callable[[], None]) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{port}") as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"
        ready()
        await ws.wait_closed()
        assert ws.close_code == 1001, ws.close_code
