"""Coroutine functions that Erlang calls, and protocols whose callbacks are some."""

import asyncio
import contextlib

import recorder

log = []


async def sleep(seconds, value):
    await asyncio.sleep(seconds)
    return value


async def hold_on(name):
    """Says that it has begun, and how it ends."""
    import erlang

    erlang.send(name, "begun")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        erlang.send(name, "cancelled")
        raise


async def hold_on_to(name):
    """Swallows its cancellation, and goes on."""
    import erlang

    erlang.send(name, "begun")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def fail():
    await asyncio.sleep(0)
    return 1 / 0


def runs_its_own():
    return asyncio.run(sleep(0.01, "by its own"))


def tasks():
    """How many tasks there are in this context."""
    import erlang

    return len(asyncio.all_tasks(erlang.event_loop()))
