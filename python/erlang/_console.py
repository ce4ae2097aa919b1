"""``print`` on the console of the Erlang VM: in whole lines; called by native code."""

from __future__ import annotations

import io
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

# A console that takes nothing for so long loses what it was given.
PATIENCE_MS = 5000


class _Patient(io.FileIO):
    """A descriptor that the VM may have made non-blocking: waits for room as other programs do."""

    def write(self, data: Buffer, /) -> int:
        written: int | None = super().write(data)
        while written is None:
            poller = select.poll()
            poller.register(self.fileno(), select.POLLOUT)
            written = super().write(data) if poller.poll(PATIENCE_MS) else memoryview(data).nbytes
        return written


def install() -> None:
    """Have ``sys.stdout`` and ``sys.stderr`` write whole lines, each in one system call.

    Several interpreters and the VM write to the same descriptor: their lines must not mix.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            lines = _Lines(
                io.BufferedWriter(_Patient(stream.fileno(), "wb", closefd=False)),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=True,
            )
            setattr(sys, name, lines)
            setattr(sys, f"__{name}__", lines)


class _Lines(io.TextIOWrapper):
    """Ours, so that it is made once in each interpreter."""
