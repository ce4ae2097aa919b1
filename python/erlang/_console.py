"""``print`` on the console of the Erlang VM, in whole lines, and in its log; called by native code."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from erlang import _runtime

if TYPE_CHECKING:
    from typing_extensions import Buffer

Log = Callable[[int, str, "str | None", str, int], bool]
"""Takes level, text, name of the logger or None for ``print``, file and line; False: there is no context to log it."""

Write = Callable[[int, bytes, int], None]
"""Takes a descriptor, what is to be written, and for how many milliseconds the descriptor may take nothing."""

# A console that takes nothing for so long loses what it was given.
PATIENCE_MS = 5000

# Between Python's INFO and WARNING; what ``logger`` lets pass if nobody told it otherwise.
NOTICE = 25

# In any second at most twice that, which leaves room: a context may log 100 lines (LINES_MAX of py_reactor_log).
LOGGED_PER_SECOND = 40

# Threads that may have begun a line each.
BEGUN_MAX = 1000


class _Whole(io.FileIO):
    """A descriptor to which everything is written whole, by native code.

    There is no `io.BufferedWriter` above it: that raises if a destructor prints while it writes.
    """

    def __init__(self, fd: int, write: Write) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._write = write

    def write(self, data: Buffer, /) -> int:
        data = bytes(data)
        self._write(self.fileno(), data, PATIENCE_MS)
        return len(data)


class _Logged(_Whole):
    """Has each line that is not blank logged as well, up to a rate; the others are counted, and the count is logged."""

    def __init__(self, fd: int, write: Write, encoding: str, log: Log) -> None:
        super().__init__(fd, write)
        self._encoding = encoding
        self._log = log
        # By thread, what was printed of a line that is not complete.
        self._begun: dict[int, bytes] = {}
        self._second = 0
        self._logged = 0
        self._left_out = 0

    def write(self, data: Buffer, /) -> int:
        data = bytes(data)
        written = super().write(data)
        # It is on the console; what goes wrong with the copy must not have it written again.
        with contextlib.suppress(Exception):
            self._copy(data)
        return written

    def _copy(self, data: bytes) -> None:
        here = threading.get_ident()
        *lines, begun = (self._begun.pop(here, b"") + data).split(b"\n")
        if len(begun) > _runtime.TRACEBACK_LIMIT_CHARS or len(self._begun) >= BEGUN_MAX:
            lines.append(begun)
        elif begun:
            # A destructor may have begun another one meanwhile.
            self._begun[here] = begun + self._begun.get(here, b"")
        self._lines(lines)

    def end_lines(self) -> None:
        """Log the lines that nobody has ended, since nobody will."""
        while self._begun:
            with contextlib.suppress(KeyError):
                self._lines([self._begun.popitem()[1]])

    def _lines(self, lines: list[bytes]) -> None:
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
    """Text of which each thread's goes on a line at a time.

    The lines are put together here: what is pending in a `TextIOWrapper` when its ``write`` begins may be gone while that goes
    on, since a destructor may print, and Python 3.11 then reads what is not there.
    """

    def __init__(self, buffer: BinaryIO, encoding: str, errors: str | None) -> None:
        super().__init__(buffer, encoding=encoding, errors=errors, write_through=True)
        # By thread, the pieces of a line that has begun. None is ever taken away: a destructor may print at any step.
        self._begun: dict[int, list[str]] = {}
        self._through = False

    def write(self, text: str, /) -> int:
        if not isinstance(text, str) or self.closed:
            return super().write(text)
        # What cannot be encoded costs nothing that has begun.
        text.encode(self.encoding, self.errors or "strict")
        begun = self._begun.setdefault(threading.get_ident(), [])
        if self._through or "\n" in text or "\r" in text or sum(map(len, begun)) > _runtime.TRACEBACK_LIMIT_CHARS:
            super().write(_taken(begun) + text)
        elif text:
            begun.append(text)
        return len(text)

    def flush(self) -> None:
        if not self.closed:
            for begun in list(self._begun.values()):
                if begun:
                    super().write(_taken(begun))
        super().flush()

    def reconfigure(self, *, write_through: bool | None = None, **how: Any) -> None:
        """As that of `io.TextIOWrapper`: with ``write_through``, no line is waited for."""
        if write_through is not None:
            self._through = write_through
        self.flush()
        super().reconfigure(**how)


def _taken(pieces: list[str]) -> str:
    taken = []
    while pieces:
        taken.append(pieces.pop(0))
    return "".join(taken)


def install(log: Log, write: Write) -> None:
    """Have ``sys.stdout`` and ``sys.stderr`` write whole lines, each in one system call, and log those of ``stdout``.

    Several interpreters and the VM write to the same descriptor: their lines must not mix.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            fd = stream.fileno()
            raw = _Logged(fd, write, stream.encoding, log) if name == "stdout" else _Whole(fd, write)
            # All that it asks of what it writes to is there.
            buffer = cast("BinaryIO", raw)
            lines = _Lines(buffer, stream.encoding, stream.errors)
            setattr(sys, name, lines)
            setattr(sys, f"__{name}__", lines)


def end_lines() -> None:
    """Show, and log, what was printed of lines that nobody has ended: the context ends."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, _Lines):
            # Python code may have closed it.
            with contextlib.suppress(ValueError):
                stream.flush()
                if isinstance(stream.buffer, _Logged):
                    stream.buffer.end_lines()
