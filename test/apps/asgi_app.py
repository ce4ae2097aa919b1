"""An ASGI application without a framework: an echo, an answer that takes its time, a WebSocket, a lifespan."""

from __future__ import annotations

import asyncio
from typing import Any

import erlang


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    match scope["type"]:
        case "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            erlang.send("apps", "the application's lifespan has ended")
            await send({"type": "lifespan.shutdown.complete"})
        case "http" if scope["path"] == "/slowly":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for digit in b"0123456789":
                await send({"type": "http.response.body", "body": bytes([digit]), "more_body": True})
                await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b""})
        case "http":
            body = b""
            while (event := await receive())["type"] == "http.request":
                body += event["body"]
                if not event.get("more_body"):
                    break
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
            await send({"type": "http.response.body", "body": body})
        case "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (event := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": event["text"]})
