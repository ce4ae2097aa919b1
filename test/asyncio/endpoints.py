#!/usr/bin/env python3
"""The scenarios of test/protocols/endpoints.py over loops of one's own, in a plain Python, on each backend that works here."""

from __future__ import annotations

import asyncio
import os
import sys
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "priv" / "alone"), str(ROOT / "test" / "protocols")]

import endpoints  # noqa: E402
import erlang  # noqa: E402
from own_loops import works  # noqa: E402


def case(backend: str, scenario: Any) -> Any:
    def test(self: unittest.TestCase) -> None:
        before = len(os.listdir("/proc/self/fd"))
        loop = erlang.new_event_loop(backend=backend)  # type: ignore[arg-type]
        try:
            loop.run_until_complete(asyncio.wait_for(scenario(loop), 60))
        finally:
            loop.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    return test


for _backend in filter(works, ("epoll", "uring")):
    _tests = {f"test_{name}": case(_backend, scenario) for name, scenario in endpoints.SCENARIOS.items()}
    globals()[f"Endpoints_{_backend}"] = type(f"Endpoints_{_backend}", (unittest.TestCase,), _tests)


if __name__ == "__main__":
    unittest.main()
