#!/usr/bin/env python3
"""The soak: a server VM for each backend, under load from here, by clients that behave as badly as clients do.

    SOAK_SECONDS   of load for each backend, after the warm-up (600)
    SOAK_SEED      of every random choice (random, and printed); replays the choices, if not the timing
    SOAK_CLIENTS   connections at a time (120)
    SOAK_BUSY      loops that take the CPU away during the second half (6)
    BACKENDS       ("uring epoll")

Every client knows what it is owed. What it gets must be a prefix of that, and all of it where its behaviour promises
so; it must see a proper end, and no reset, unless it or a restart provoked one. At the end nothing may be left in the
VM, and its memory must have stayed flat. Exits with 1 if anything was wrong.
"""

import asyncio
import contextlib
import faulthandler
import gc
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from asyncio_clients import behaviours_of
from clients import STALL_SECONDS, STALL_SECONDS_BUSY, VOLATILE, Client, Fault

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "_build" / "soak"

PORTS = ["direct"] * 4 + ["native", "document", "tight", "handoff"] * 3 + ["hoarder", "race"] * 2 + sorted(VOLATILE - {"race"})
PORTS += ["aio_streams", "aio_protocol", "awaits"] * 3 + ["aio_udp"]

FAILURES_MAX = 20
SUPERVISED_KILL_SECONDS = 13  # the supervisor allows 10 restarts a minute
MEMORY_SLACK = (1.10, 10e6)


class Load:
    """The clients of one server."""

    def __init__(self, ports, seed):
        self.ports = ports
        self.seed = seed
        self.failures = []
        self.behaviours = Counter()
        self.connections = self.verified = self.complete = self.cut = self.restarts = 0
        self.open = 0
        self.stall_seconds = STALL_SECONDS
        self.stopping = asyncio.Event()

    def fail(self, text):
        self.failures.append(text)
        if len(self.failures) <= FAILURES_MAX:
            print(f"FAILURE (seed {self.seed}): {text}", flush=True)
        if len(self.failures) >= FAILURES_MAX:
            self.stopping.set()

    async def run(self, clients, seconds, phase):
        self.stopping.clear()
        loop = asyncio.get_running_loop()
        handle = loop.call_later(seconds, self.stopping.set)
        await asyncio.gather(*(self.worker(f"{self.seed}/{phase}/{n}") for n in range(clients)))
        handle.cancel()

    async def worker(self, name):
        rng = random.Random(name)
        while not self.stopping.is_set():
            port = rng.choice(PORTS)
            behaviours = behaviours_of(port)
            behaviour = rng.choices(list(behaviours), list(behaviours.values()))[0]
            self.behaviours[behaviour.__name__] += 1
            self.connections += 1
            client = Client(self, port, rng)
            try:
                await client.go_unless_stalled(behaviour)
            except TimeoutError:
                self.fail(f"{name} {port} {behaviour.__name__} hangs: {client}")
            except Fault as fault:
                self.fail(f"{name} {port} {behaviour.__name__}: {fault}; {client}")
            except Exception as error:
                self.fail(f"{name} {port} {behaviour.__name__}: {error!r}; {client}")


class Server:
    """A VM: asked by lines, observed from outside."""

    @classmethod
    async def start(cls, backend, seed):
        self = cls()
        self.lines = asyncio.Queue()
        self.lock = asyncio.Lock()
        environment = os.environ | {"SOAK_BACKEND": backend, "SOAK_SEED": str(seed), "SOAK_DIR": str(HERE)}
        ebin = ROOT / "_build" / "default" / "lib" / "py_reactor" / "ebin"
        self.process = await asyncio.create_subprocess_exec(
            "erl", "-noshell", "-pa", ebin, BUILD, "-s", "soak",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
        self.reader = asyncio.ensure_future(self.read())
        self.ports = await self.answer(60)
        self.pid = self.ports.pop("os_pid")
        return self

    async def read(self):
        while line := (await self.process.stdout.readline()).decode(errors="replace"):
            if line.startswith("@"):
                self.lines.put_nowait(line[1:].strip())
            else:
                print("  " + line.rstrip(), flush=True)
        self.lines.put_nowait(None)

    async def answer(self, seconds):
        async with asyncio.timeout(seconds):
            line = await self.lines.get()
        if line is None or line == "error":
            raise Fault(f"the VM ended, with status {await self.process.wait()}")
        return {key: int(value) for key, value in (pair.split("=") for pair in line.split(";") if pair)}

    async def ask(self, command, seconds=60):
        # Whoever is cancelled meanwhile leaves no answer for the next one.
        self.asking = asyncio.ensure_future(self.ask_in_turn(command, seconds))
        return await asyncio.shield(self.asking)

    async def ask_in_turn(self, command, seconds):
        async with self.lock:
            self.process.stdin.write(command.encode() + b"\n")
            return await self.answer(seconds)

    def outside(self):
        """What the operating system knows of the VM."""
        proc = Path(f"/proc/{self.pid}")
        threads = []
        for task in os.listdir(proc / "task"):
            with contextlib.suppress(OSError):
                threads.append((proc / "task" / task / "comm").read_text().strip())
        memory = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return {
            "descriptors": len(os.listdir(proc / "fd")),
            # The kernel's own helpers of io_uring come and go.
            "threads": sum(not name.startswith("iou-") for name in threads),
            "memory": int(memory.split()[1]) * 1024,
        }

    def details(self):
        """Names of the descriptors and threads, for a report."""
        proc = Path(f"/proc/{self.pid}")
        names = Counter()
        for fd in os.listdir(proc / "fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(proc / "fd" / fd)
                names["descriptor " + target.split(":[")[0]] += 1
        for task in os.listdir(proc / "task"):
            with contextlib.suppress(OSError):
                names["thread " + (proc / "task" / task / "comm").read_text().strip()] += 1
        return names

    async def settle(self):
        """What is held when nobody is connected."""
        figures = await self.ask("settle", 120)
        for _ in range(50):
            outside = self.outside()
            await asyncio.sleep(0.1)
            if outside["descriptors"] == self.outside()["descriptors"]:
                break
        return figures | outside

    async def end(self):
        if self.process.returncode is None:
            try:
                await self.ask("halt", 10)
                async with asyncio.timeout(30):
                    await self.process.wait()
            except (TimeoutError, Fault, ConnectionError) as error:
                print(f"  the VM does not end: {error!r}", flush=True)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
        await self.reader
        return await self.process.wait()


async def churn(server, load, rng):
    """Restarts some contexts, now and then."""
    next_supervised = time.monotonic() + SUPERVISED_KILL_SECONDS
    while True:
        await asyncio.sleep(1 + 3 * rng.random())
        if time.monotonic() > next_supervised:
            next_supervised += SUPERVISED_KILL_SECONDS
            await server.ask("churn kill supervised")
            load.restarts += 1
        load.restarts += 1
        await server.ask(
            rng.choice(
                (
                    "churn kill restarted",
                    "churn kill restarted",
                    f"churn stop restarted {rng.choice((0, 50, 500, 3000))}",
                    f"churn drain restarted {rng.choice((50, 500, 2000))}",
                    "churn relisten" if rng.random() < 0.3 else "churn kill restarted",
                )
            )
        )


def mb(size):
    return f"{size / 1e6:.1f} MB"


async def watch(server, load, samples):
    start = time.monotonic()
    previous = (load.connections, load.verified, (await server.ask("sample"))["messages"])
    number = 0
    while True:
        await asyncio.sleep(max(0.0, start + len(samples) + 1 - time.monotonic()))
        sample = await server.ask("sample") | server.outside()
        samples.append(sample)
        number += 1
        if number % 10 == 0:
            print(
                f"  {number:4} s: {load.open} open, {(load.connections - previous[0]) / 10:.0f} connections/s, "
                f"{mb((load.verified - previous[1]) / 10)}/s verified, "
                f"{(sample['messages'] - previous[2]) / 10:.0f} messages/s; "
                f"rss {mb(sample['memory'])}, erlang {mb(sample['erlang_memory'])}, fds {sample['descriptors']}, "
                f"threads {sample['threads']}, ports {sample['ports']}, processes {sample['processes']}, "
                f"lent {sample['buffers_lent']}, served {sample['connections']}, failures {len(load.failures)}",
                flush=True,
            )
            previous = (load.connections, load.verified, sample["messages"])


@contextlib.contextmanager
def busy_loops(count):
    """Programs that want all of the CPU: what depends on who is first shows itself beside them."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


async def under_load(server, load, clients, seconds, phase, rng):
    samples = []
    watching = [asyncio.ensure_future(watch(server, load, samples)), asyncio.ensure_future(churn(server, load, rng))]
    try:
        running = asyncio.ensure_future(load.run(clients, seconds, phase))
        await asyncio.wait([running, *watching], return_when=asyncio.FIRST_COMPLETED)
        for task in watching:
            if task.done():
                load.stopping.set()
                task.result()
        await running
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    return samples


async def soak(backend, seed, seconds, clients):
    print(f"{backend}: seed {seed}, {seconds} s, {clients} clients", flush=True)
    server = await Server.start(backend, seed)
    load = Load(server.ports, seed)
    try:
        await server.ask("about")
        rng = random.Random(f"{seed}/churn")
        warm_up = max(10, seconds // 10)
        print(f"  warm-up, {warm_up} s", flush=True)
        await under_load(server, load, clients, warm_up, "warm-up", rng)
        before, details = await server.settle(), server.details()
        print(f"  baseline: {before}", flush=True)
        samples = await under_load(server, load, clients, seconds - seconds // 2, "soak", rng)
        busy = int(os.environ.get("SOAK_BUSY") or 6)
        print(f"  the second half, beside {busy} busy loops", flush=True)
        load.stall_seconds = STALL_SECONDS_BUSY
        with busy_loops(busy):
            samples += await under_load(server, load, clients, seconds // 2, "busy", rng)
        after = await server.settle()
        print(f"  at the end: {after}", flush=True)
        for name, count in sorted((server.details() - details).items()):
            print(f"  more than at the baseline: {count} × {name}", flush=True)
        for key in ("descriptors", "threads", "ports", "processes", *(key for key in after if key.startswith("asyncio "))):
            if after[key] > before[key]:
                load.fail(f"{key}: {after[key]}, {before[key]} at the baseline")
        for key in ("connections", "buffers_lent"):
            if after[key]:
                load.fail(f"{key}: {after[key]} when all clients are gone")
        flat(load, [sample["memory"] for sample in samples])
        promises(load, await server.ask("counts"), await server.ask("logs"))
    except (Fault, TimeoutError, ConnectionError) as error:
        load.fail(f"the server does not answer: {error!r}")
    finally:
        status = await server.end()
    if status != 0:
        load.fail(f"the VM ended with status {status}")
    print(
        f"{backend}: {'FAILED' if load.failures else 'ok'}, {load.connections} connections "
        f"({load.complete} owed and got everything, {load.cut} cut where that may be), "
        f"{load.verified} bytes verified, {load.restarts} restarts, {len(load.failures)} failures, seed {seed}\n"
        f"  {dict(load.behaviours.most_common())}",
        flush=True,
    )
    return not load.failures


def flat(load, memory):
    quarter = len(memory) // 4
    if quarter < 5:
        print("  too short a run to say whether memory is flat", flush=True)
        return
    early, late = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[3 * quarter :])
    print(f"  resident memory: median {mb(early)} in the second quarter, {mb(late)} in the last", flush=True)
    if late > max(early * MEMORY_SLACK[0], early + MEMORY_SLACK[1]):
        load.fail(f"resident memory grows: from {mb(early)} in the second quarter to {mb(late)} in the last")


def promises(load, counts, logs):
    labels = [key.partition(" ")[2] for key in counts if key.startswith("accepted ")]
    for label in labels:
        print(f"  {label}: " + ", ".join(f"{k[: -len(label) - 1]} {counts[k]}" for k in counts if k.endswith(" " + label)))
    print(f"  counted: { {k: v for k, v in counts.items() if ' ' not in k} }\n  logged: {logs}", flush=True)
    for key in (
        "lost_twice after_lost wrong_thread reached_after_lost spurious_write_ready corrupted bad_header worker_failures"
    ).split():
        if counts[key]:
            load.fail(f"{key}: {counts[key]}")
    if counts["made"] != counts["lost"]:
        load.fail(f"connection_made {counts['made']} times, connection_lost {counts['lost']} times")
    if counts["created"] != counts["deleted"]:
        load.fail(f"{counts['created'] - counts['deleted']} protocols of {counts['created']} were never released")
    for label in labels:
        if counts[f"accepted {label}"] != counts[f"closed {label}"]:
            load.fail(f"{label}: accepted {counts[f'accepted {label}']}, closed {counts[f'closed {label}']}")
        if counts[f"exceptions {label}"] != counts.get(f"faults {label}", 0):
            load.fail(f"{label}: {counts[f'exceptions {label}']} faults, {counts.get(f'faults {label}', 0)} on purpose")
        if counts[f"refused {label}"]:
            load.fail(f"{label}: {counts[f'refused {label}']} refused")
    for kind in ("log panic", "log unexpected"):
        if logs.get(kind):
            load.fail(f"{kind}: {logs[kind]}")


async def main():
    seconds = int(os.environ.get("SOAK_SECONDS") or 600)
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1 << 31))
    clients = int(os.environ.get("SOAK_CLIENTS") or 120)
    backends = (os.environ.get("BACKENDS") or "uring epoll").split()
    BUILD.mkdir(parents=True, exist_ok=True)
    subprocess.run(["erlc", "-o", BUILD, HERE / "soak.erl"], check=True)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 65536), limit))
    gc.freeze()
    faulthandler.register(signal.SIGUSR1)
    results = [await soak(backend, seed, seconds, clients) for backend in backends]
    if not all(results):
        print(f"failed; again with SOAK_SEED={seed}", flush=True)
    return not all(results)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
