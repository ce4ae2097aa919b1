#!/usr/bin/env python3
"""CPython's own tests of asyncio over loops of erlang.new_event_loop(), in a plain Python that has the native module.

    conformance.py                      all of them
    conformance.py --core               a core, on one backend, for every run of the tests
    conformance.py --backend uring -k call_soon     one backend (default: both), some tests

The tests come with Python (Debian: libpython3-testsuite); without them, this says so and ends well. Each group of tests runs in
a child; one that dies or hangs costs the test that ran. What is left out stands in left_out.py, each with its reason.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from left_out import LEFT_OUT

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

MODULES = (
    "test_events",
    "test_base_events",
    "test_tasks",
    "test_futures",
    "test_futures2",
    "test_timeouts",
    "test_taskgroups",
    "test_locks",
    "test_queues",
    "test_runners",
    "test_context",
    "test_threads",
    "test_waitfor",
    "test_pep492",
    "test_eager_task_factory",
    "test_staggered",
)

CORE = (
    "test_events:ReactorEventLoopTests.test_call_*",
    "test_events:ReactorEventLoopTests.test_run_*",
    "test_events:ReactorEventLoopTests.test_add_*",
    "test_events:ReactorEventLoopTests.test_create_server",
    "test_tasks:CTask_CFuture_Tests.*",
    "test_futures:CFutureTests.*",
    "test_timeouts:*",
    "test_taskgroups:*",
    "test_runners:*",
    "test_waitfor:*",
)

AT_ONCE = 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", action="store_true")
    parser.add_argument("--backend", choices=("auto", "epoll", "uring"), action="append")
    parser.add_argument("--module", action="append")
    parser.add_argument("-k", metavar="TEXT", default="", help="only tests whose name contains this")
    args = parser.parse_args()
    if importlib.util.find_spec("test.test_asyncio") is None:
        print(f"asyncio: {sys.executable} has no test package, nothing is tested (Debian: libpython3-testsuite)")
        return 0
    began = time.monotonic()
    failed, counts = [], {"ok": 0, "skipped": 0, "failed": 0, "left out": 0}
    for backend in args.backend or (["auto"] if args.core else ["epoll", "uring"]):
        for module in MODULES:
            if args.module and module not in args.module:
                continue
            if args.core and not any(pattern.startswith(f"{module}:") for pattern in CORE):
                continue
            if importlib.util.find_spec(f"test.test_asyncio.{module}") is None:
                continue
            names = [name for name in listed(module, backend) if args.k in name]
            if args.core:
                names = [name for name in names if matches(f"{module}:{name}", CORE)]
            chosen = [name for name in names if not why_left_out(f"{module}:{name}")]
            counts["left out"] += len(names) - len(chosen)
            for name, how, text in run(module, backend, chosen):
                counts[how] += 1
                if how == "failed":
                    failed.append(f"{module}:{name}")
                    print(f"FAILED on {backend}: {module}:{name}\n{text}", flush=True)
    print(f"asyncio on {sys.version.split()[0]}: {counts}, {time.monotonic() - began:.0f} s")
    for name in failed:
        print(f"failed: {name}")
    return bool(failed)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def why_left_out(name: str) -> str:
    return next((reason for pattern, reason in LEFT_OUT.items() if fnmatch.fnmatchcase(name, pattern)), "")


def environment() -> dict[str, str]:
    path = [ROOT / "python", ROOT / "priv" / "alone"]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, path)))


def child(module: str, backend: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "child.py"), module, backend, *args]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL)


def listed(module: str, backend: str) -> list[str]:
    done = child(module, backend, "list")
    if done.returncode != 0:
        sys.exit(f"asyncio: {module} cannot be imported:\n{done.stderr}")
    return done.stdout.split()


def run(module: str, backend: str, names: list[str]) -> list[tuple[str, str, str]]:
    """Of each test: its name, how it went, and the traceback."""
    parts = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [row for rows in pool.map(lambda part: run_part(module, backend, part), parts) for row in rows]


def run_part(module: str, backend: str, names: list[str]) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    while left := names[len(rows) :]:
        done = child(module, backend, "run", *left)
        for line in done.stdout.splitlines():
            if line.startswith("["):
                name, how, text = json.loads(line)
                rows.append((name, how, text))
        if len(rows) < len(names):
            said = f"the process ended with {done.returncode}:\n{done.stderr[-3000:]}"
            rows.append((names[len(rows)], "failed", said))
    return rows


if __name__ == "__main__":
    sys.exit(main())
