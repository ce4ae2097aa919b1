"""aiosmtpd, which smtplib talks to, in a thread."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP

import erlang.reactor as reactor

received: list[bytes] = []


class Handler:
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        received.append(envelope.content)
        return "250 OK"


async def serve() -> int:
    received.clear()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Handler()), "127.0.0.1", 0)

    @reactor.on_stop
    async def stop() -> None:
        server.close()

    return int(server.sockets[0].getsockname()[1])


def send(port: int, size: int) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", str(size)
    message.set_content("x" * size)
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.send_message(message)


async def check(port: int) -> None:
    await asyncio.gather(*(asyncio.to_thread(send, port, size) for size in (10, 500, 900)))
    assert len(received) == 3


async def watch(port: int, ready: Callable[[], None]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert (await reader.readline()).startswith(b"220")
    ready()
    # The connection is still open when its context ends, and hears of it.
    assert await reader.read() == b""
    writer.close()
