"""The first import of asyncio in an interpreter, in one of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PYTHON = Path(__file__).parents[2] / "python"

# The last part of the package is interrupted, once.
INTERRUPTED = """
import sys
from erlang import _asyncio_import

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "asyncio.unix_events":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt

told = []
sys.meta_path.insert(0, Interrupts())
_asyncio_import.watch(lambda: told.append("imported"), is_main=True)
try:
    import asyncio
except KeyboardInterrupt:
    told.append("interrupted")
import asyncio
asyncio.run(asyncio.wait_for(asyncio.sleep(0), 10))
assert asyncio.events is sys.modules["asyncio.events"]
print(*told)
"""


def test_an_interrupted_import_spoils_none():
    command = [sys.executable, "-c", INTERRUPTED]
    ran = subprocess.run(command, env={"PYTHONPATH": str(PYTHON)}, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("interrupted imported\n", "")
