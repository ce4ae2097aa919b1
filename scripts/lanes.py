"""Runs targets of the Makefile in lanes side by side, and says what it does and how far it is.

    lanes.py "lint test-rust" "test-ct"

Each argument is a lane: its targets run one after the other. What a target prints goes to _build/lanes/TARGET.log; of one
that fails, what it says of its failures and the end are shown, and the last lines name them once more. The others go on all
the same, so that one run tells of every fault. One whose log stands still for SILENT_SECONDS has hung: what its processes do is
shown, and it is ended. Exits with 1 if any failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

LOGS = Path("_build/lanes")
STACKS = Path(__file__).with_name("stacks.py")
# How much is shown of the log of a target that failed: its end, and what follows each line that tells of a failure.
TAIL_LINES = 30
FAILURE_LINES = 15
LINE_CHARACTERS = 400
# How Common Test, pytest, cargo and unittest mark the line of a case that failed.
FAILURE = re.compile(r"\bFAILED\b|^(ERROR|FAIL): ")
# The colours of a terminal, and Common Test's dots, of which one suite has hundreds.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
DOTS = re.compile(r"(%%% \w+: )?\.*")
STILL_SECONDS = 30
# Longer than anything that works prints nothing: Common Test ends a case after five minutes (test/bounds.erl).
SILENT_SECONDS = 1200


def lines_of(log: Path) -> list[str]:
    """What a log says, without colours, progress and what no terminal shows, each line cut to a bound."""
    text = COLOUR.sub("", log.read_text(errors="replace")).replace("\0", "")
    return [line[:LINE_CHARACTERS] for line in text.splitlines() if not DOTS.fullmatch(line)]


def failures(lines: list[str]) -> list[str]:
    """The lines that name a case that failed."""
    return [line for line in lines if FAILURE.search(line)]


def excerpt(lines: list[str]) -> list[str]:
    """What a reader needs of a log: each failure with what follows it, and the end. `...` stands for what is left out."""
    shown = set(range(max(0, len(lines) - TAIL_LINES), len(lines)))
    for at, line in enumerate(lines):
        if FAILURE.search(line):
            shown.update(range(at, min(at + FAILURE_LINES, len(lines))))
    result: list[str] = []
    for at, line in enumerate(lines):
        if at in shown:
            if at - 1 not in shown and at > 0:
                result.append("...")
            result.append(line)
    return result


def members(group: int) -> list[int]:
    """The processes of a group and of those that it has started with groups of their own: all of its session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == group:
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return found


@dataclass
class Part:
    """A target that runs."""

    child: subprocess.Popen[bytes]
    log: Path
    began: float = field(default_factory=time.monotonic)
    size: int = 0
    grew: float = field(default_factory=time.monotonic)
    told: int = 0

    def silent(self) -> float:
        """For how many seconds nothing was printed."""
        size = self.log.stat().st_size
        if size != self.size:
            self.size, self.grew = size, time.monotonic()
        return time.monotonic() - self.grew

    def news(self) -> list[str]:
        """The failures since the last call."""
        known, lines = self.told, failures(lines_of(self.log))
        self.told = len(lines)
        return lines[known:]

    def end(self) -> None:
        """Says what its processes do, and ends them."""
        found = members(self.child.pid)
        subprocess.run([sys.executable, str(STACKS), *map(str, found)], check=False)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass
class Run:
    """One run of all lanes, as the lanes see it together."""

    total: int
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    running: dict[str, Part] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        print(f"[{minutes:3}:{seconds:02}] {text}", flush=True)

    def lane(self, targets: list[str]) -> None:
        for target in targets:
            if not self.stopped:
                self.make(target)

    def make(self, target: str) -> None:
        log = LOGS / f"{target}.log"
        with log.open("wb") as out, self.lock:
            # A group of its own: what it has started ends with it.
            child = subprocess.Popen(
                ["make", "--no-print-directory", target],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            part = self.running[target] = Part(child, log)
            self.say(f"{target} begins")
        status = child.wait()
        with self.lock:
            del self.running[target]
            self.done += 1
            took = f"{time.monotonic() - part.began:.0f} s; {self.done} of {self.total} done"
            if status == 0:
                self.say(f"{target} passed ({took})")
                return
            lines = lines_of(log)
            self.failed[target] = failures(lines)
            self.say(f"{target} FAILED ({took}); the whole log is {log}, of which:")
            print("\n".join(f"    {line}" for line in excerpt(lines)), flush=True)

    def say_what_runs(self) -> None:
        with self.lock:
            running = dict(self.running)
        if running:
            self.say("still: " + "; ".join(f"{name}, {time.monotonic() - part.began:.0f} s" for name, part in running.items()))
        for name, part in running.items():
            for line in part.news():
                self.say(f"{name}: {line}")
            if part.silent() > SILENT_SECONDS:
                self.say(f"{name} has printed nothing for {SILENT_SECONDS} s; what its processes do, before they are ended:")
                part.end()

    def stop(self) -> None:
        self.stopped = True
        with self.lock:
            for part in self.running.values():
                os.killpg(part.child.pid, signal.SIGTERM)


def main() -> int:
    lanes = [argument.split() for argument in sys.argv[1:]]
    LOGS.mkdir(parents=True, exist_ok=True)
    # A make of its own in each lane: none of them is part of this one's job server.
    os.environ.pop("MAKEFLAGS", None)
    os.environ.pop("MAKELEVEL", None)
    run = Run(total=sum(map(len, lanes)))
    threads = [threading.Thread(target=run.lane, args=(lane,)) for lane in lanes]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            until = time.monotonic() + STILL_SECONDS
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            run.say_what_runs()
    except KeyboardInterrupt:
        run.stop()
        for thread in threads:
            thread.join()
        return 130
    for target, cases in run.failed.items():
        run.say(f"{target} failed:")
        print("\n".join(f"    {line}" for line in cases), flush=True)
    run.say(f"FAILED: {', '.join(run.failed)}" if run.failed else f"all {run.total} passed")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
