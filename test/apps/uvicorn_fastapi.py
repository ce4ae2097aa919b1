"""FastAPI on uvicorn: JSON, a response in parts, a WebSocket, and its lifespan. httpx and websockets talk to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import uvicorn
import websockets
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import erlang
import erlang.reactor as reactor


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    erlang.send("apps", "FastAPI's lifespan has ended")


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    item: str
    count: int


@app.post("/orders")
async def order(order: Order) -> dict[str, int]:
    return {order.item: order.count + 1}


@app.get("/count/{until}")
async def count(until: int) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(until):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingResponse(lines(), media_type="text/plain")


@app.websocket("/echo")
async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for text in ws.iter_text():
        await ws.send_text(text)


async def serve() -> int:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving = reactor.spawn(server.serve(sockets=[listening]))

    @reactor.on_stop
    async def stop() -> None:
        server.should_exit = True
        await serving

    return int(listening.getsockname()[1])


async def check(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        ordered = await asyncio.gather(*(client.post("/orders", json={"item": "tea", "count": n}) for n in range(20)))
        assert [response.json() for response in ordered] == [{"tea": n + 1} for n in range(20)]
        assert (await client.post("/orders", json={"item": "tea"})).status_code == 422
        async with client.stream("GET", "/count/1000") as response:
            lines = [int(line) async for line in response.aiter_lines()]
        assert lines == list(range(1000))
    async with websockets.connect(f"ws://127.0.0.1:{port}/echo") as ws:
        for text in ("hello", "x" * 100_000):
            await ws.send(text)
            assert await ws.recv() == text


async def watch(port: int, ready: Callable[[], None]) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{port}/echo") as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"
        ready()
        await ws.wait_closed()
        assert ws.close_code == 1012, ws.close_code
