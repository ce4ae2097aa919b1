"""What programs do with descriptors, sockets, pipes and datagrams by an event loop: each scenario is run by a context's loop, and
by loops of one's own in a plain Python (test/asyncio/endpoints.py), on both backends."""

import fcntl
import os
import socket
import traceback

SCENARIOS = {}


class Interrupt(KeyboardInterrupt):
    """What a scenario interrupts its own loop by."""


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def pair(kind=socket.SOCK_STREAM):
    ends = socket.socketpair(socket.AF_UNIX, kind)
    for end in ends:
        end.setblocking(False)
    return ends


def high(sock):
    """The same socket by a number that no other thread of this process gets by chance: the system gives the lowest that is free."""
    number = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 900)
    sock.close()
    return socket.socket(fileno=number)


def reuse(number):
    """A number is another socket's: what had it is closed, if it is not yet. Answers that one, and its other end."""
    ours, theirs = socket.socketpair()
    os.dup2(ours.fileno(), number, inheritable=False)
    ours.close()
    theirs.setblocking(False)
    return socket.socket(fileno=number), theirs


def spin(seconds):
    import time

    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def turns(count=5):
    import asyncio

    for _ in range(count):
        await asyncio.sleep(0)
    await asyncio.sleep(0.005)


def raised(kind, function, *args):
    try:
        function(*args)
    except kind as exc:
        return exc
    raise AssertionError(f"{kind} was not raised")


async def until(condition):
    import asyncio

    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def run(name, scenario):
    """Run a scenario in the loop of the context; it sends "ok", or what went wrong."""
    import erlang

    loop = erlang.event_loop()

    async def main():
        try:
            await SCENARIOS[scenario](loop)
        except BaseException:
            erlang.send(name, traceback.format_exc())
            raise
        erlang.send(name, "ok")

    kept[name] = loop.create_task(main())


kept = {}


def names():
    return list(SCENARIOS)


import endpoints_datagrams  # noqa: E402, F401
import endpoints_descriptors  # noqa: E402, F401
import endpoints_exhausted  # noqa: E402, F401
import endpoints_pairs  # noqa: E402, F401
import endpoints_sendfile  # noqa: E402, F401
import endpoints_sockets  # noqa: E402, F401
import endpoints_streams  # noqa: E402, F401
