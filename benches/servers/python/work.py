"""The CPU case: Python work for each message, the same number of steps on every server."""

from __future__ import annotations

import os

MESSAGE_BYTES = 64

#: Steps of work() for each message: setup.sh has found how many take 50 µs, run passes that on.
ITERATIONS = int(os.environ.get("CPU_ITERATIONS", "0"))


def work(iterations: int) -> int:
    """Something that no interpreter can leave out."""
    value = 0
    for step in range(iterations):
        value = (value * 31 + step) & 0xFFFFFFFF
    return value


class Worker:
    """Works for each complete message of a stream, and echoes it."""

    def __init__(self) -> None:
        self._rest = b""

    def answer(self, data: bytes) -> bytes:
        """What to send for ``data``."""
        rest = self._rest
        if rest:
            data = rest + data
        count, left = divmod(len(data), MESSAGE_BYTES)
        for _ in range(count):
            work(ITERATIONS)
        if left or rest:
            self._rest = data[count * MESSAGE_BYTES :]
            return data[: count * MESSAGE_BYTES]
        return data
