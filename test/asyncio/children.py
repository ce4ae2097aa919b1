"""Runs somebody else's tests of asyncio over our loops, in children: one that dies or hangs costs the test that ran."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

AT_ONCE = 40


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--backend", choices=("auto", "epoll", "uring"), action="append")
    made.add_argument("--module", action="append")
    made.add_argument("-k", metavar="TEXT", default="", help="only tests whose name contains this")
    made.add_argument("-v", action="store_true", help="say why tests were skipped")
    made.add_argument("--left-out-too", action="store_true", help="run those of the list in left_out.py as well")
    return made


class Suite:
    """Modules of tests, and how it went."""

    def __init__(
        self,
        name: str,
        package: str,
        left_out: Mapping[str, str],
        python: str,
        path: Iterable[Path] = (),
        not_applicable: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.package = package
        self.left_out = left_out
        self.not_applicable = not_applicable
        self.python = python
        where = [ROOT / "python", ROOT / "priv" / "alone", *path]
        self.environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, where)))
        self.began = time.monotonic()
        self.failed: list[str] = []
        self.counts = {"ok": 0, "skipped": 0, "failed": 0, "left out": 0, "not applicable": 0}

    def run(self, args: argparse.Namespace, modules: Iterable[str], chosen: Iterable[str] = ("*",)) -> None:
        """Run what is ``chosen`` (patterns of "module:class.test") of the modules."""
        for backend in args.backend or ["epoll", "uring"]:
            for module in modules:
                if args.module and module not in args.module:
                    continue
                names = [name for name in self._listed(module, backend) if args.k in name]
                names = [name for name in names if matches(f"{module}:{name}", chosen)]
                asked = self._without(names, module, self.not_applicable, "not applicable")
                here = asked if args.left_out_too else self._without(asked, module, self.left_out, "left out")
                for name, how, text in self._run_module(module, backend, here):
                    self.counts[how] += 1
                    if how == "failed":
                        self.failed.append(f"{module}:{name}")
                        print(f"FAILED on {backend}: {module}:{name}\n{text}", flush=True)
                    elif how == "skipped" and args.v:
                        print(f"skipped: {module}:{name}: {text}", flush=True)

    def report(self) -> int:
        took = time.monotonic() - self.began
        counts = self.counts
        print(f"{self.name} on {sys.version.split()[0]}: {counts}, {took:.0f} s")
        applicable = counts["ok"] + counts["failed"] + counts["left out"]
        if self.not_applicable and applicable:
            every = applicable + counts["not applicable"]
            print(f"{counts['ok'] / applicable:.1%} of what is applicable passed, {counts['ok'] / every:.1%} of all")
        for name in self.failed:
            print(f"failed: {name}")
        return bool(self.failed)

    def _without(self, names: list[str], module: str, patterns: Iterable[str], count: str) -> list[str]:
        left = [name for name in names if not matches(f"{module}:{name}", patterns)]
        self.counts[count] += len(names) - len(left)
        return left

    def _child(self, module: str, backend: str, *args: str) -> subprocess.CompletedProcess[str]:
        command = [self.python, str(HERE / "child.py"), f"{self.package}.{module}", backend, *args]
        # Not pipes: they end when all who have them do, and a test may leave a process behind.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            done = subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            # The position stays where it is: who was left behind shares it, and writes on there.
            texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace") for file in (out, err)]
        return subprocess.CompletedProcess(command, done.returncode, *texts)

    def _listed(self, module: str, backend: str) -> list[str]:
        done = self._child(module, backend, "list")
        if done.returncode != 0:
            sys.exit(f"{self.name}: {module} cannot be imported:\n{done.stderr}")
        return done.stdout.split()

    def _run_module(self, module: str, backend: str, names: list[str]) -> list[tuple[str, str, str]]:
        """Of each test: its name, how it went, and the traceback."""
        parts = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [row for rows in pool.map(lambda part: self._run_part(module, backend, part), parts) for row in rows]

    def _run_part(self, module: str, backend: str, names: list[str]) -> list[tuple[str, str, str]]:
        rows: list[tuple[str, str, str]] = []
        while left := names[len(rows) :]:
            done = self._child(module, backend, "run", *left)
            for line in done.stdout.splitlines():
                if line.startswith('["'):
                    name, how, text = json.loads(line)
                    rows.append((name, how, text))
            if len(rows) < len(names):
                said = f"the process ended with {done.returncode}:\n{done.stderr[-3000:]}"
                rows.append((names[len(rows)], "failed", said))
        return rows


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
