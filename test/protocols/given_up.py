"""Coroutine functions that are given up while they run, and one that others are given up beside."""

import asyncio
import time

import erlang
import erlang.reactor as reactor


def _spin(name, what="begun"):
    erlang.send(name, what)
    while True:
        pass


async def at_once(name):
    _spin(name)


async def behind_an_await(name):
    await asyncio.sleep(0.001)
    _spin(name)


async def in_a_task(name):
    await asyncio.create_task(behind_an_await(name))


async def gathered(name):
    await asyncio.gather(asyncio.sleep(3600), at_once(name))


async def in_a_group(name):
    async with asyncio.TaskGroup() as group:
        group.create_task(in_a_task(name))


async def waited_for(name):
    await asyncio.wait_for(at_once(name), 3600)


async def in_the_end(name):
    try:
        await hold_on(name)
    finally:
        _spin(name, "again")


async def twice(name):
    try:
        _spin(name)
    except BaseException:
        _spin(name, "again")


async def hold_on(name):
    erlang.send(name, "begun")
    await asyncio.sleep(3600)


async def clean_up(name, seconds):
    """Takes its time once it is cancelled, without a pause."""
    try:
        await hold_on(name)
    finally:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        erlang.send(name, "clean")


async def compute(steps):
    """Goes from step to step, each of which takes a while."""
    for _ in range(steps):
        sum([number for number in range(2000)])
        await asyncio.sleep(0)
    return steps



class Bystander:
    """A task of the context that computes for ever."""

    def __init__(self):
        self.steps, self.ended = 0, None
        self.task = reactor.spawn(self.run())

    async def run(self):
        try:
            while True:
                self.steps += await compute(1)
        except BaseException as exc:
            self.ended = repr(exc)
            raise


def stand_by():
    global bystander
    bystander = Bystander()


def bystanders():
    return bystander.steps, bystander.ended


def tasks():
    return len(asyncio.all_tasks(erlang.event_loop()))
