"""The servers on asyncio, on uvloop, on rloop, and on our loop outside the VM: ``event_loop_server.py LOOP CASE``.

CONTEXTS processes, each with an event loop and a socket of its own on one port (SO_REUSEPORT): what
a user of asyncio would start on so many cores. Ends at the end of standard input, and on SIGTERM.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from importlib import metadata

import event_loop_programs
from event_loop_programs import open_socket, serve

NewLoop = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(kind: str) -> tuple[NewLoop, str]:
    """What makes loops of that kind, and its version."""
    if kind == "asyncio":
        return asyncio.new_event_loop, "asyncio"
    if kind.startswith("loop-"):
        erlang = importlib.import_module("erlang")
        _, backend, *streams = kind.split("-")
        if streams:
            event_loop_programs.streams = importlib.import_module("erlang.streams")
        erlang.new_event_loop(backend=backend).run_until_complete(asyncio.sleep(0))
        return lambda: erlang.new_event_loop(backend=backend), f"py_reactor's loop, {' '.join([backend, *streams])}"
    return importlib.import_module(kind).new_event_loop, f"{kind} {metadata.version(kind)}"


async def serve_until_told(case: str, opened: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    serving = loop.create_task(serve(case, opened))
    ended = asyncio.Event()

    def read_input() -> None:
        if not os.read(0, 4096):
            ended.set()

    # Not a thread that reads: a process with two of them pays for the descriptors that they share.
    try:
        loop.add_reader(0, read_input)
    except OSError:
        # A file, or /dev/null: there is nothing to wait for.
        ended.set()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    waiting = loop.create_task(ended.wait())
    done, _ = await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()


def fork(serve_one: Callable[[socket.socket], None], sockets: list[socket.socket]) -> None:
    """Serves each socket in a process of its own, and waits for all of them to end."""
    children = []
    for opened in sockets:
        child = os.fork()
        if child == 0:
            for other in sockets:
                if other is not opened:
                    other.close()
            serve_one(opened)
            os._exit(0)
        children.append(child)
    for opened in sockets:
        opened.close()

    def pass_on(number: int, _frame: object) -> None:
        for child in children:
            os.kill(child, number)

    signal.signal(signal.SIGTERM, pass_on)
    for child in children:
        os.waitpid(child, 0)


def main() -> None:
    kind, case = sys.argv[1:]
    contexts = int(os.environ.get("CONTEXTS", "1"))
    try:
        new_loop, version = loop_factory(kind)
    except (ImportError, OSError) as why:
        print(json.dumps({"unavailable": str(why)}), flush=True)
        return
    sockets = [open_socket(case, 0)]
    sockets += [open_socket(case, sockets[0].getsockname()[1]) for _ in range(contexts - 1)]

    def serve_one(opened: socket.socket) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve_until_told(case, opened))

    announcement = {
        "port": sockets[0].getsockname()[1],
        "pid": os.getpid(),
        "version": f"{version}, Python {platform.python_version()}",
    }
    print(json.dumps(announcement), flush=True)
    if contexts == 1:
        serve_one(sockets[0])
    else:
        fork(serve_one, sockets)


main()
