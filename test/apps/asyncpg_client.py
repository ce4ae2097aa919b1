"""asyncpg's pool, whose server is a PostgreSQL at APPS_POSTGRES."""

from __future__ import annotations

import asyncio
import os

import asyncpg

import erlang.reactor as reactor


async def serve() -> int:
    global pool
    port = int(os.environ["APPS_POSTGRES"])
    pool = await asyncpg.create_pool(host="127.0.0.1", port=port, user="postgres", database="postgres", min_size=2, max_size=5)
    reactor.on_stop(pool.close)
    return port


async def check(port: int) -> None:
    assert sorted(await asyncio.gather(*(pool.fetchval("SELECT $1::int + 1", n) for n in range(50)))) == list(range(1, 51))
    async with pool.acquire() as connection:
        await connection.execute("CREATE TEMPORARY TABLE measured (id bigserial, at timestamptz DEFAULT now(), bytes bytea)")
        rows = [(os.urandom(1000),) for _ in range(1000)]
        await connection.copy_records_to_table("measured", records=rows, columns=["bytes"])
        found = await connection.fetch("SELECT bytes FROM measured ORDER BY id")
        assert [tuple(row) for row in found] == rows
        async with connection.transaction():
            read = [row["id"] async for row in connection.cursor("SELECT id FROM measured ORDER BY id")]
        assert read == list(range(1, 1001))
        heard: asyncio.Queue[str] = asyncio.Queue()

        def listen(_connection: object, _pid: int, _channel: str, text: object) -> None:
            heard.put_nowait(str(text))

        await connection.add_listener("news", listen)
        await pool.execute("SELECT pg_notify('news', 'hello')")
        assert await heard.get() == "hello"
        await connection.remove_listener("news", listen)
        # What takes too long is cancelled there, too.
        try:
            await connection.fetchval("SELECT pg_sleep(60)", timeout=0.1)
        except TimeoutError:
            pass
        assert await connection.fetchval("SELECT 42") == 42
