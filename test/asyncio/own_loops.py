#!/usr/bin/env python3
"""What CPython's tests do not ask of a loop of one's own: signals, threads, descriptors, and the garbage collector.

In a plain Python; on each backend that works here.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import socket
import sys
import threading
import time
import unittest
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "priv" / "alone")]

import erlang  # noqa: E402


def works(backend: str) -> bool:
    loop = erlang.new_event_loop(backend=backend)
    try:
        loop.run_until_complete(asyncio.sleep(0))
    except OSError as why:
        print(f"{backend} is left out: {why}")
        return False
    finally:
        loop.close()
    return True


def descriptors() -> int:
    # What a test before this has left to the collector is none of it.
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def kill_later(number: int) -> threading.Timer:
    """The signal comes a moment after this, from another thread."""
    timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
    timer.start()
    return timer


class OwnLoops:
    backend = ""

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return erlang.new_event_loop(backend=self.backend)

    def run_in_thread(self, work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def test_a_signal_ends_the_wait(self) -> None:
        loop = self.new_loop()
        timers: list[threading.Timer] = []
        # Not before it runs, however long that takes.
        loop.call_soon(lambda: timers.append(kill_later(signal.SIGINT)))
        with self.assertRaises(KeyboardInterrupt):
            loop.run_forever()
        timers[0].join()
        # It goes on as if nothing had been.
        self.assertEqual(loop.run_until_complete(asyncio.sleep(0.01, "on")), "on")
        loop.close()

    def test_a_runner_cancels_its_task_at_an_interrupt(self) -> None:
        seen = []

        async def main() -> None:
            timer = kill_later(signal.SIGINT)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
            finally:
                timer.join()

        with self.assertRaises(KeyboardInterrupt), asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(main())
        self.assertEqual(seen, ["cancelled"])

    def test_signal_handlers(self) -> None:
        loop = self.new_loop()
        loop.add_signal_handler(signal.SIGUSR1, loop.stop)
        timer = kill_later(signal.SIGUSR1)
        loop.run_forever()
        timer.join()
        loop.close()

    def test_calls_from_threads_wake_it(self) -> None:
        loop = self.new_loop()
        answers = []

        async def main() -> None:
            for nth in range(200):
                future = loop.create_future()
                thread = self.run_in_thread(lambda: loop.call_soon_threadsafe(future.set_result, nth))
                answers.append(await future)
                thread.join()

        loop.run_until_complete(main())
        self.assertEqual(answers, list(range(200)))
        loop.close()

    def test_readers_and_transports_are_called_in_the_context_that_asyncio_gives_them(self) -> None:
        """As it does since 3.15."""
        loop = self.new_loop()
        variable = contextvars.ContextVar("variable", default="outside")
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        seen = []

        class Looks(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                seen.append(variable.get())
                variable.set("made")

            def data_received(self, data: bytes) -> None:
                seen.append(variable.get())
                loop.stop()

        def readable() -> None:
            seen.append(variable.get())
            loop.stop()

        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.send(b"x")
        loop._add_reader(ours, readable, context=context)  # type: ignore[attr-defined]
        loop.run_forever()
        loop._remove_reader(ours)  # type: ignore[attr-defined]
        transport = loop._make_socket_transport(ours, Looks(), context=context)  # type: ignore[attr-defined]
        loop.run_forever()
        self.assertEqual(seen, ["given", "given", "made"])
        self.assertEqual(context[variable], "made")
        self.assertEqual(variable.get(), "outside")
        transport.abort()
        theirs.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def test_the_end_of_a_process_is_told_in_the_context_of_who_started_it(self) -> None:
        variable = contextvars.ContextVar("variable", default="outside")
        seen = []

        class Looks(asyncio.SubprocessProtocol):
            def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
                seen.append(("lost", variable.get()))

            def process_exited(self) -> None:
                seen.append(("exited", variable.get()))

            def connection_lost(self, exc: Exception | None) -> None:
                seen.append(("over", variable.get()))

        async def main() -> None:
            variable.set("given")
            transport, _ = await loop.subprocess_exec(Looks, "cat", stdin=asyncio.subprocess.PIPE)
            stdin = transport.get_pipe_transport(0)
            assert isinstance(stdin, asyncio.WriteTransport)
            stdin.close()
            await until(lambda: "over" in dict(seen))

        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            loop = runner.get_loop()
            runner.run(main())
        self.assertEqual({value for _, value in seen}, {"given"})
        self.assertLessEqual({"exited", "over"}, {name for name, _ in seen})

    def test_it_may_be_run_by_one_thread_after_the_other(self) -> None:
        loop = self.new_loop()
        # What is waited for before goes on: the selector, and a timer.
        reader, writer = os.pipe()
        heard: list[bytes] = []
        loop.add_reader(reader, lambda: heard.append(os.read(reader, 10)))
        rung: list[int] = []
        loop.call_later(0.05, rung.append, 1)
        for nth in range(3):
            os.write(writer, b"x")
            self.run_in_thread(lambda: loop.run_until_complete(until(lambda: len(heard) > nth))).join()
            self.assertEqual(heard, [b"x"] * (nth + 1))
        self.run_in_thread(lambda: loop.run_until_complete(until(lambda: rung))).join()
        self.assertEqual(rung, [1])
        loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)
        loop.close()

    def test_running_it_twice_is_refused(self) -> None:
        loop = self.new_loop()

        async def main() -> None:
            loop._run_once()  # type: ignore[attr-defined]

        with self.assertRaisesRegex(RuntimeError, "already running"):
            loop.run_until_complete(main())
        loop.close()

    def test_a_closed_one_leaves_no_descriptor(self) -> None:
        before = descriptors()
        for _ in range(50):
            loop = self.new_loop()
            loop.run_until_complete(loop.run_in_executor(None, time.sleep, 0))
            reader, writer = os.pipe()
            loop.add_reader(reader, print)
            loop.remove_reader(reader)
            os.close(reader)
            os.close(writer)
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        self.assertEqual(descriptors(), before)

    def test_what_is_not_closed_is_collected(self) -> None:
        before = descriptors()
        for _ in range(20):
            loop = self.new_loop()
            loop.call_soon(lambda kept=loop: kept)
            loop.call_later(3600, print, loop)
            loop.run_until_complete(asyncio.sleep(0))
            there = weakref.ref(loop)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del loop
                gc.collect()
            self.assertIsNone(there())
        self.assertEqual(descriptors(), before)

    def test_timers_that_are_cancelled_keep_nothing(self) -> None:
        class Kept:
            pass

        loop = self.new_loop()
        kept = Kept()
        there = weakref.ref(kept)
        handle = loop.call_later(3600, print, kept)
        del kept
        handle.cancel()
        self.assertIsNone(there())
        handles = [loop.call_later(3600, print) for _ in range(1000)]
        for handle in handles:
            handle.cancel()
        self.assertLess(len(loop._scheduled), 200)  # type: ignore[attr-defined]
        loop.close()

    def test_no_timer_is_early(self) -> None:
        loop = self.new_loop()
        late: list[float] = []

        async def sleep(seconds: float) -> None:
            until = time.monotonic() + seconds
            await asyncio.sleep(seconds)
            late.append(time.monotonic() - until)

        async def main() -> None:
            await asyncio.gather(*(sleep(nth / 5000) for nth in range(1000)))

        loop.run_until_complete(main())
        self.assertEqual(len(late), 1000)
        self.assertGreaterEqual(min(late), 0)
        loop.close()


for _backend in filter(works, ("epoll", "uring")):
    _name = f"OwnLoops_{_backend}"
    globals()[_name] = type(_name, (OwnLoops, unittest.TestCase), {"backend": _backend})


if __name__ == "__main__":
    # What a shell starts in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.main()
