"""Protocols and functions that use the event loop of their context."""

import sys

import recorder


def asyncio_is_imported():
    return "asyncio" in sys.modules


class Lazy(recorder.Recording):
    """Imports asyncio in a callback, and answers by a task."""

    def data_received(self, data):
        import asyncio

        loop = asyncio.get_running_loop()
        loop.create_task(self.answer(bytes(data)))
        return "continue"

    async def answer(self, data):
        import asyncio

        await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        self.write(data + (b" by its loop" if loop is self.loop() else b" by another"))

    def loop(self):
        import erlang

        return erlang.event_loop()


class Chain(recorder.Recording):
    """Answers by a future, a task and a callback that are all ready at once; notes in which turns."""

    def data_received(self, data):
        import asyncio

        loop = asyncio.get_running_loop()
        received = loop.create_future()
        loop.create_task(self.answer(received))
        loop.call_soon(received.set_result, bytes(data))
        return "continue"

    async def answer(self, received):
        self.write(await received)


class Everywhere(recorder.Everywhere):
    """Notes in which callbacks a loop is running."""

    def see(self, method):
        import asyncio

        self.seen.append([method, asyncio._get_running_loop() is not None])


def seen(tag):
    return recorder.protocol(tag).seen


results = []
kept = []


def referred(kept):
    import weakref

    return kept() if isinstance(kept, weakref.ref) else None


def note_after(seconds, value):
    import erlang

    erlang.event_loop().call_later(seconds, results.append, value)


def tick_every(seconds):
    import erlang

    loop = erlang.event_loop()

    def tick():
        results.append("tick")
        loop.call_later(seconds, tick)

    tick()


def sleep_all(count, seconds):
    """So many tasks that sleep for that long; `slept` tells how they fared."""
    import asyncio

    import erlang

    loop = erlang.event_loop()
    results.clear()

    async def sleep(until):
        await asyncio.sleep(seconds)
        results.append(loop.time() - until)

    until = loop.time() + seconds
    for _ in range(count):
        loop.create_task(sleep(until))


def slept():
    """How many have, and how many of them too early."""
    return [len(results), sum(late < 0 for late in results)]


def say(name, what):
    import erlang

    erlang.send(name, what)


def hold_on(name):
    """A task, an asynchronous generator and an executor, which say when they end."""
    import asyncio

    import erlang

    loop = erlang.event_loop()

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            say(name, "generator")

    async def sleeps():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            say(name, "task")
            raise

    async def begin():
        kept.append(numbers())
        await anext(kept[-1])
        await loop.run_in_executor(None, say, name, "executor")
        loop.create_task(sleeps())
        await asyncio.sleep(0)
        say(name, "begun")

    loop.create_task(begin())


def swallow(name):
    """A task that cannot be cancelled."""
    import asyncio

    import erlang

    async def swallows():
        say(name, "begun")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                say(name, "swallowed")

    erlang.event_loop().create_task(swallows())


def raises(method, *args):
    import erlang

    try:
        getattr(erlang.event_loop(), method)(*args)
    except RuntimeError as exc:
        return str(exc)


def raises_given(method, kind):
    async def coroutine():
        pass

    return raises(method, *([2, print] if kind == "signal" else [coroutine()] if kind else []))


def spin_forever():
    import erlang

    loop = erlang.event_loop()

    def again():
        loop.call_soon(again)

    again()


def sleep_until_there_is(path):
    import logging
    import os
    import time

    logging.warning("sleeps")
    while not os.path.exists(path):
        time.sleep(0.01)


def spin(name):
    import erlang

    loop = erlang.event_loop()

    def spin():
        say(name, "spins")
        while True:
            pass

    loop.call_soon(spin)
    loop.call_soon(say, name, "after it")


def spin_in_a_task(name):
    import erlang

    async def spin():
        say(name, "spins")
        while True:
            pass

    loop = erlang.event_loop()
    loop.create_task(spin())
    loop.call_soon(say, name, "after it")


def eager():
    """How many steps a task has made when the factory for eager ones has made it; None: there is none."""
    import asyncio

    import erlang

    if sys.version_info < (3, 12):
        return None
    steps = []

    async def step():
        steps.append(1)

    loop = erlang.event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    loop.create_task(step())
    loop.set_task_factory(None)
    return len(steps)


async def cancelled():
    import asyncio

    task = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "its own"
    except BaseException as exc:
        return f"{type(exc)} of another interpreter"


def start_program(name):
    import asyncio

    import erlang

    async def start():
        try:
            await asyncio.create_subprocess_exec("true")
        except Exception as exc:
            say(name, [type(exc).__name__, str(exc)])

    erlang.event_loop().create_task(start())


def from_thread(name):
    import threading

    import erlang

    loop = erlang.event_loop()
    threading.Thread(target=loop.call_soon_threadsafe, args=(say, name, "from a thread")).start()


def fail(name):
    import erlang

    loop = erlang.event_loop()
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(say, name, "after it")


def own_loop(backend):
    import asyncio

    import erlang

    async def main():
        await asyncio.sleep(0.01)
        return await asyncio.to_thread(lambda: 42)

    with asyncio.Runner(loop_factory=lambda: erlang.new_event_loop(backend=backend)) as runner:
        return runner.run(main())


def own_loop_on_threads(backend):
    """One loop, run on one thread after the other: the system gives a number to a thread that another one had."""
    import asyncio
    import threading

    import erlang

    loop = erlang.new_event_loop(backend=backend)
    answers = []

    def run():
        try:
            answers.append(loop.run_until_complete(asyncio.sleep(0.001, 42)))
        except OSError as exc:
            answers.append(str(exc))

    for _ in range(5):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    loop.close()
    return answers


def own_loop_with_a_connection_on_threads(backend):
    """A connection goes along from one thread to the next, and loses nothing."""
    import asyncio
    import socket
    import threading

    import erlang

    loop = erlang.new_event_loop(backend=backend)
    ours, theirs = socket.socketpair()
    theirs.settimeout(30)
    made = loop.run_until_complete(asyncio.open_connection(sock=ours))
    answers = []

    async def exchange():
        made[1].write(b"hello")
        theirs.send(await asyncio.to_thread(theirs.recv, 5))
        return await made[0].readexactly(5)

    def run():
        answers.append(loop.run_until_complete(exchange()).decode())

    for _ in range(5):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    made[1].transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    theirs.close()
    return answers


def own_loops_closed_elsewhere(backend):
    """How many descriptors stay of loops that are closed on another thread than they ran on."""
    import asyncio
    import os
    import threading

    import erlang

    def events():
        numbers = os.listdir("/proc/self/fd")
        return sum(os.path.islink(f"/proc/self/fd/{n}") and "eventfd" in link(n) for n in numbers)

    def link(number):
        try:
            return os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            return ""

    before = events()
    for _ in range(30):
        loop = erlang.new_event_loop(backend=backend)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    return events() - before


def own_loop_interrupted(backend):
    """What a reader raises, as an interrupt may be, ends the loop."""
    import socket

    import erlang

    loop = erlang.new_event_loop(backend=backend)
    one, other = socket.socketpair()
    one.setblocking(False)

    def interrupted():
        raise KeyboardInterrupt

    loop.add_reader(one, interrupted)
    other.send(b"x")
    loop.call_later(20, loop.stop)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        return "interrupted"
    else:
        return "went on"
    finally:
        loop.remove_reader(one)
        loop.close()
        one.close()
        other.close()


def serve(name):
    """An echo by asyncio's own streams, on the context's loop."""
    import asyncio

    import erlang

    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def begin():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        kept.append(server)
        say(name, server.sockets[0].getsockname()[1])

    erlang.event_loop().create_task(begin())
