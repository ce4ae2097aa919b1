"""What an interpreter of a context's own does before CPython takes it apart; called by native code."""

from __future__ import annotations

import atexit
import threading
from typing import Any


def pass_nothing_on() -> None:
    """Let threads that the calling one starts be daemons only if they are told to be.

    `threading` takes a thread that it did not start for a daemon, and before 3.12 those that it starts for daemons, too.
    """
    vars(threading.current_thread())["_daemonic"] = False


def end_program() -> None:
    """Do what the end of a Python program does: wait for threads that are not daemons, then run `atexit`'s functions.

    CPython does this too, but when it is too late to leave the interpreter alone. So threads that such
    a function starts are waited for as well.
    """
    internals: Any = threading
    try:
        # It ends the workers of `concurrent.futures` first.
        internals._shutdown()
        # It must not be called twice.
        internals._shutdown = _nothing
        atexit._run_exitfuncs()
        _join_late_ones()
    finally:
        internals._shutdown = _nothing
        # What 3.13 remembers of a thread that it did not start complains once its module is gone.
        local = getattr(threading, "_thread_local_info", None)
        if local is not None:
            vars(local).clear()


def _join_late_ones() -> None:
    """Wait for threads that were started after all others had ended."""
    internals: Any = threading
    # These stand for threads that nobody has started here, and never end.
    foreign = (internals._MainThread, internals._DummyThread)
    while late := [t for t in threading.enumerate() if not t.daemon and not isinstance(t, foreign)]:
        for thread in late:
            thread.join()


def _nothing() -> None:
    pass
