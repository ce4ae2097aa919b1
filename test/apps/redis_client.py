"""redis-py's client, whose server is a Redis at APPS_REDIS."""

from __future__ import annotations

import asyncio
import os

import redis.asyncio

import erlang.reactor as reactor


async def serve() -> int:
    global client
    port = int(os.environ["APPS_REDIS"])
    client = redis.asyncio.Redis(host="127.0.0.1", port=port, client_name="apps")
    reactor.on_stop(client.aclose)
    await client.ping()
    return port


async def check(port: int) -> None:
    value = os.urandom(1_000_000)
    await client.set("document", value)
    assert await client.get("document") == value
    await client.delete("counted")
    assert sorted(await asyncio.gather(*(client.incr("counted") for _ in range(50)))) == list(range(1, 51))
    async with client.pipeline() as pipe:
        assert await pipe.set("a", 1).incr("a").get("a").execute() == [True, 2, b"2"]
    async with client.pubsub() as news:
        await news.subscribe("news")
        assert (await news.get_message(timeout=10))["type"] == "subscribe"
        await client.publish("news", "hello")
        assert (await news.get_message(timeout=10))["data"] == b"hello"
    waiting = asyncio.create_task(client.blpop(["later"], timeout=60))
    await client.rpush("later", "now")
    assert await waiting == (b"later", b"now")
