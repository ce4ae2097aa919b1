"""An ASGI application on hypercorn, its lifespan included. httpx and websockets talk to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import httpx
import websockets
from asgi_app import app
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.config import Config

import erlang.reactor as reactor


async def serve() -> int:
    listening = socket.create_server(("127.0.0.1", 0))
    port = int(listening.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    stopping = asyncio.Event()
    serving = reactor.spawn(serve_asgi(app, config, shutdown_trigger=stopping.wait))  # type: ignore[arg-type]

    @reactor.on_stop
    async def stop() -> None:
        stopping.set()
        await serving

    return port


async def check(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        bodies = [b"x" * size for size in (0, 1, 1000, 1_000_000)]
        answers = await asyncio.gather(*(client.post("/", content=body) for body in bodies))
        assert [answer.content for answer in answers] == bodies
    async with websockets.connect(f"ws://127.0.0.1:{port}/") as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def watch(port: int, ready: Callable[[], None]) -> None:
    """What it has begun to answer, it answers."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client, client.stream("GET", "/slowly") as response:
        parts = response.aiter_bytes()
        assert await anext(parts) == b"0"
        ready()
        assert b"".join([part async for part in parts]) == b"123456789"
