"""What an interpreter of a context's own does before CPython takes it apart; called by native code."""

from __future__ import annotations

import threading
from typing import Any


def pass_nothing_on() -> None:
    """Let threads that the calling one starts be daemons only if they are told to be.

    `threading` takes a thread that it did not start for a daemon, and before 3.12 those that it starts for daemons, too.
    """
    vars(threading.current_thread())["_daemonic"] = False


def end_threads() -> None:
    """Wait for the threads that are not daemons, as at the end of a Python program.

    CPython does this too, but when it is too late to leave the interpreter alone.
    """
    internals: Any = threading
    try:
        internals._shutdown()
    finally:
        # It must not be called twice.
        internals._shutdown = _nothing
        # What 3.13 remembers of a thread that it did not start complains once its module is gone.
        local = getattr(threading, "_thread_local_info", None)
        if local is not None:
            vars(local).clear()


def _nothing() -> None:
    pass
