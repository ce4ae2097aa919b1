"""A server of aiohttp, which its client talks to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp import web

import erlang
import erlang.reactor as reactor

WEB_SOCKETS = web.AppKey("WEB_SOCKETS", set[web.WebSocketResponse])


async def hello(request: web.Request) -> web.Response:
    return web.json_response({"hello": request.match_info["name"]})


async def upper(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for part in request.content.iter_any():
        await response.write(part.upper())
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    request.app[WEB_SOCKETS].add(ws)
    async for message in ws:
        await ws.send_str(message.data)
    request.app[WEB_SOCKETS].discard(ws)
    return ws


async def on_shutdown(app: web.Application) -> None:
    for ws in set(app[WEB_SOCKETS]):
        await ws.close(code=aiohttp.WSCloseCode.GOING_AWAY)


async def on_cleanup(app: web.Application) -> None:
    erlang.send("apps", "aiohttp has cleaned up")


async def serve() -> int:
    app = web.Application()
    app[WEB_SOCKETS] = set()
    app.add_routes([web.get("/hello/{name}", hello), web.post("/upper", upper), web.get("/echo", echo)])
    app.on_shutdown.append(on_shutdown)
    app.on_cleanup.append(on_cleanup)
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=1)
    await site.start()
    reactor.on_stop(runner.cleanup)
    return int(runner.addresses[0][1])


async def check(port: int) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def greet(name: str) -> str:
            async with session.get(f"/hello/{name}") as response:
                return str((await response.json())["hello"])

        names = [f"n{number}" for number in range(50)]
        assert await asyncio.gather(*map(greet, names)) == names
        async with session.post("/upper", data=b"x" * 1_000_000) as response:
            assert await response.read() == b"X" * 1_000_000
        async with session.ws_connect("/echo") as ws:
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"


async def watch(port: int, ready: Callable[[], None]) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session, session.ws_connect("/echo") as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        ready()
        message = await ws.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY), message
