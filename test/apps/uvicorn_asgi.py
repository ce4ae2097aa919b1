"""An ASGI application on uvicorn, in Python alone, so in any mode. httpx and websockets talk to it."""

from __future__ import annotations

import socket

import uvicorn
from asgi_app import app
from hypercorn_asgi import check, watch

import erlang.reactor as reactor

__all__ = ["check", "serve", "watch"]


async def serve() -> int:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http="h11", log_level="warning"))
    serving = reactor.spawn(server.serve(sockets=[listening]))

    @reactor.on_stop
    async def stop() -> None:
        server.should_exit = True
        await serving

    return int(listening.getsockname()[1])
