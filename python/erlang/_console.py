"""``print`` on the console of the Erlang VM, in whole lines, and in its log; called by native code."""

from __future__ import annotations

import contextlib
import io
import select
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from erlang import _runtime

if TYPE_CHECKING:
    from typing_extensions import Buffer

Log = Callable[[int, str, "str | None", str, int], bool]
"""Takes level, text, name of the logger or None for ``print``, file and line; False: there is no context to log it."""

# A console that takes nothing for so long loses what it was given.
PATIENCE_MS = 5000

# Between Python's INFO and WARNING; what ``logger`` lets pass if nobody told it otherwise.
NOTICE = 25

# In any second at most twice that, which leaves room: a context may log 100 lines (LINES_MAX of py_reactor_log).
LOGGED_PER_SECOND = 40


class _Patient(io.FileIO):
    """A descriptor that the VM may have made non-blocking: waits for room as other programs do."""

    def write(self, data: Buffer, /) -> int:
        written: int | None = super().write(data)
        while written is None:
            poller = select.poll()
            poller.register(self.fileno(), select.POLLOUT)
            written = super().write(data) if poller.poll(PATIENCE_MS) else memoryview(data).nbytes
        return written


class _Logged(_Patient):
    """Has each line that is not blank logged as well, up to a rate; the others are counted, and the count is logged."""

    def __init__(self, fd: int, encoding: str, log: Log) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._encoding = encoding
        self._log = log
        self._begun = b""
        self._second = 0
        self._logged = 0
        self._left_out = 0

    def write(self, data: Buffer, /) -> int:
        written = super().write(data)
        # It is on the console; what goes wrong with the copy must not have it written again.
        with contextlib.suppress(Exception):
            self._copy(bytes(memoryview(data)[:written]))
        return written

    def _copy(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > _runtime.TRACEBACK_LIMIT_CHARS:
            lines.append(self._begun)
            self._begun = b""
        for line in lines:
            if line.strip():
                self._line(_runtime.shorten(line.decode(self._encoding, "replace")))

    def _line(self, text: str) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._logged = second, 0
            if self._left_out:
                self._say(f"{self._left_out} printed lines are on the standard output only")
                self._left_out = 0
        if self._logged < LOGGED_PER_SECOND:
            self._logged += 1
            self._say(text)
        else:
            self._left_out += 1

    def _say(self, text: str) -> None:
        frame = sys._getframe()
        while frame.f_back and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        self._log(NOTICE, text, None, frame.f_code.co_filename, frame.f_lineno)


class _Lines(io.TextIOWrapper):
    """Ours, so that it is made once in each interpreter."""


def install(log: Log) -> None:
    """Have ``sys.stdout`` and ``sys.stderr`` write whole lines, each in one system call, and log those of ``stdout``.

    Several interpreters and the VM write to the same descriptor: their lines must not mix.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            fd = stream.fileno()
            raw = _Logged(fd, stream.encoding, log) if name == "stdout" else _Patient(fd, "wb", closefd=False)
            lines = _Lines(
                io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=True
            )
            setattr(sys, name, lines)
            setattr(sys, f"__{name}__", lines)
