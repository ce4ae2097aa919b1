"""What an event loop does for each callback, in nanoseconds: the median of interleaved rounds, and the ratio to uvloop. Beside
it the floor: what Python itself does for that, with no loop.

    benches/loops/run [--rounds 20] [--case call_soon] [--test]
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import functools
import importlib
import statistics
import time
from collections.abc import Callable

Loop = asyncio.AbstractEventLoop

BATCH = 200


def chain(loop: Loop, count: int) -> None:
    """Each callback makes the next one ready."""
    left = count

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(again)
        else:
            loop.stop()

    loop.call_soon(again)
    loop.run_forever()


def batch(loop: Loop, count: int) -> None:
    """Many are ready at once."""

    def nothing() -> None:
        pass

    for _ in range(count // BATCH):
        for _ in range(BATCH):
            loop.call_soon(nothing)
        loop.call_soon(loop.stop)
        loop.run_forever()


def steps(loop: Loop, count: int) -> None:
    """A task that lets others run, again and again."""

    async def task() -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    loop.run_until_complete(task())


def timers(loop: Loop, count: int) -> None:
    """Timeouts that are set and cancelled, as most are."""

    def nothing() -> None:
        pass

    async def task() -> None:
        for _ in range(count // BATCH):
            for _ in range(BATCH):
                loop.call_later(10, nothing).cancel()
            await asyncio.sleep(0)

    loop.run_until_complete(task())


def wakes(loop: Loop, count: int) -> None:
    """A task that waits for a future which a callback resolves."""

    async def task() -> None:
        for _ in range(count):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    loop.run_until_complete(task())


CASES: dict[str, Callable[[Loop, int], None]] = {
    "call_soon chain": chain,
    "batch of 200": batch,
    "task step": steps,
    "call_later + cancel": timers,
    "future": wakes,
}


# Floors.

VARIABLE = contextvars.ContextVar("VARIABLE", default=None)


def calls_floor(count: int) -> None:
    """A function is called by C, in a copy of the context."""

    def nothing() -> None:
        pass

    for _ in range(count):
        contextvars.copy_context().run(nothing)


def timers_floor(count: int) -> None:
    """The clock is read, the context copied; what is made so has a method called."""
    for _ in range(count):
        _ = time.monotonic() + 10
        contextvars.copy_context().get(VARIABLE)


class Least:
    """What a task needs of a loop. For a handle it makes something as small, which nobody runs."""

    call_soon = functools.partial

    def get_debug(self) -> bool:
        return False


def steps_floor(count: int) -> None:
    """CPython's own step of a task."""

    async def task() -> None:
        while True:
            await asyncio.sleep(0)

    loop, made = Least(), []
    loop.call_soon = lambda step, context: made.append(step)  # type: ignore
    endless = asyncio.Task(task(), loop=loop)  # type: ignore
    endless._log_destroy_pending = False  # type: ignore
    del loop.call_soon
    for _ in range(count):
        made[0]()


FLOORS: dict[str, Callable[[int], None]] = {
    "call_soon chain": calls_floor,
    "batch of 200": calls_floor,
    "task step": steps_floor,
    "call_later + cancel": timers_floor,
}


def factories() -> dict[str, Callable[[], Loop]]:
    import erlang

    made: dict[str, Callable[[], Loop]] = {"asyncio": asyncio.SelectorEventLoop}
    for name in ("uvloop", "rloop"):
        try:
            made[name] = importlib.import_module(name).new_event_loop
        except ImportError:
            print(f"{name} is not there")
    made["ours, epoll"] = lambda: erlang.new_event_loop(backend="epoll")
    try:
        erlang.new_event_loop(backend="uring").run_until_complete(asyncio.sleep(0))
        made["ours, uring"] = lambda: erlang.new_event_loop(backend="uring")
    except OSError as why:
        print(f"without io_uring: {why}")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--case", default="")
    parser.add_argument("--test", action="store_true", help="see only that it runs")
    args = parser.parse_args()
    rounds, count = (1, BATCH) if args.test else (args.rounds, args.count)
    makers = factories()
    print(f"{'':22}" + "".join(f"{name:>18}" for name in ["floor", *makers]))
    for name, case in CASES.items():
        if args.case not in name:
            continue
        took: dict[str, list[float]] = {kind: [] for kind in (["floor"] if name in FLOORS else []) + list(makers)}
        for _ in range(rounds):
            if name in FLOORS:
                began = time.process_time_ns()
                FLOORS[name](count)
                took["floor"].append((time.process_time_ns() - began) / count)
            for kind, make in makers.items():
                loop = make()
                # What is made when a loop first runs is no callback's.
                loop.run_until_complete(asyncio.sleep(0))
                began = time.process_time_ns()
                case(loop, count)
                took[kind].append((time.process_time_ns() - began) / count)
                loop.close()
        medians = {kind: statistics.median(values) for kind, values in took.items()}
        base = medians.get("uvloop", medians["asyncio"])
        shown = [f"{medians[kind]:>10.0f} ({medians[kind] / base:.2f})" if kind in medians else "" for kind in ["floor", *makers]]
        print(f"{name:22}" + "".join(f"{text:>18}" for text in shown), flush=True)


if __name__ == "__main__":
    main()
