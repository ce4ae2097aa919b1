"""A server as a test sees it: a process to start, to look at, and to end without a trace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

SERVERS = Path(__file__).parent

#: Nothing here is about time; a broken server should not hang the suite.
PATIENCE_SECONDS = 60.0


def within_patience(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def process_tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, rest = [], [pid]
    while rest:
        one = rest.pop()
        found.append(one)
        rest += parents.get(one, [])
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """A server that has been started."""

    #: Why those that were seen not to serve do not: one try is enough.
    unavailable: ClassVar[dict[str, str]] = {}

    def __init__(self, name: str, case: str, program: str = "run", **environment: str) -> None:
        self.name = name
        self.port = 0
        #: The process whose tree the server is.
        self.pid = 0
        self.process = subprocess.Popen(
            [SERVERS / program, name, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            # What it starts must not get away by being nobody's child any more.
            start_new_session=True,
        )

    def wait_until_it_serves(self) -> None:
        """Reads what it says of itself; skips the test if it cannot serve, and may say so."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            assert self.process.wait(PATIENCE_SECONDS) == 0
            assert list(answer) == ["unavailable"]
            may_be = "owngil" in answer["unavailable"] and "owngil" in self.name
            may_be = may_be or ("io_uring" in answer["unavailable"] and "uring" in self.name)
            assert may_be, answer
            self.unavailable[self.name] = answer["unavailable"]
            pytest.skip(answer["unavailable"])
        assert sorted(answer) == ["pid", "port", "version"]
        self.port = answer["port"]
        self.pid = answer["pid"]
        assert self.pid in process_tree(self.process.pid)
        assert answer["version"].isprintable() and answer["version"]

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def end(self, how: Callable[[], None]) -> int:
        """Ends it; makes sure that nothing is left, nor more was said. Answers its status."""
        processes = process_tree(self.process.pid)
        how()
        status = self.process.wait(PATIENCE_SECONDS)
        left = [pid for pid in processes if pid != self.process.pid]
        assert within_patience(lambda: not any(map(is_running, left))), left
        session = [pid for pid in process_tree(1) if session_of(pid) == self.process.pid]
        assert not any(map(is_running, session)), session
        assert self.process.stdout and self.process.stdout.read() == ""
        return status

    def close_input(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def clean_up(self) -> None:
        """Whatever happened, nothing of it stays."""
        for pid in [pid for pid in process_tree(1) if session_of(pid) == self.process.pid]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1
