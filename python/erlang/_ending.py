"""What an interpreter of a context's own does before CPython takes it apart; called by native code."""

from __future__ import annotations

import sys
from typing import Any


def end_threads() -> None:
    """Wait for the threads that are not daemons, as at the end of a Python program.

    CPython does this too, but when it is too late to leave the interpreter alone.
    """
    threading: Any = sys.modules.get("threading")
    if threading is None:
        return
    try:
        threading._shutdown()
    finally:
        # It must not be called twice.
        threading._shutdown = _nothing
        # What 3.13 remembers of a thread that it did not start complains once its module is gone.
        local = getattr(threading, "_thread_local_info", None)
        if local is not None:
            vars(local).clear()


def _nothing() -> None:
    pass
