"""What an interpreter does at its end, and the main one, which stays, when the application stops; called by native code."""

from __future__ import annotations

import _io
import atexit
import contextlib
import gc
import sys
import threading
from typing import Any


def be_no_main_thread() -> None:
    """Have the calling thread be one like any that Python has not started, and not the main one of its interpreter.

    Before 3.13 that is whoever imports `threading` first, where libraries would set signal handlers, in vain.
    """
    internals: Any = threading
    main = threading.main_thread()
    if main is threading.current_thread():
        internals._DummyThread()
        # Some compare numbers. Nobody waits for the end of what is no thread.
        vars(main)["_ident"] = None
        internals._shutdown_locks.discard(vars(main)["_tstate_lock"])


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
        flush_files()
    finally:
        internals._shutdown = _nothing
        # What 3.13 remembers of a thread that it did not start complains once its module is gone.
        local = getattr(threading, "_thread_local_info", None)
        if local is not None:
            vars(local).clear()


def pause_program() -> None:
    """Do what the end of a Python program does in the main interpreter, which goes on: the application may start again.

    Its threads are not waited for: they are nobody's.
    """
    try:
        atexit._run_exitfuncs()
    finally:
        _register_again()
        # First, because the collector closes what lies below a file in a circle before the file is flushed.
        flush_files()
        # What contexts have left in circles.
        gc.collect()
        flush_files()


def _register_again() -> None:
    """Put back, or end, what modules register or start once, when they are imported, and may be needed again."""
    # What is set here is theirs alone.
    modules: dict[str, Any] = dict(sys.modules)
    if logging := modules.get("logging"):
        atexit.register(logging.shutdown)
    if util := modules.get("multiprocessing.util"):
        util._exiting = False
        atexit.register(util._exit_function)
    if server := modules.pop("multiprocessing.forkserver", None):
        # It ends with the program. Its socket has gone, and whether there may be another is asked when it is imported.
        with contextlib.suppress(OSError):
            server._forkserver._stop()
        for name in ("forkserver", "popen_forkserver"):
            sys.modules.pop(f"multiprocessing.{name}", None)
            vars(modules["multiprocessing"]).pop(name, None)
    if weakref := modules.get("weakref"):
        # It registers itself with the next one that is made.
        weakref.finalize._shutdown = False
        weakref.finalize._registered_with_atexit = False


def flush_files() -> None:
    """Write what open files have in memory, as the end of a program does by closing them."""
    kinds: Any = _io
    # By the type: `isinstance` would ask objects for their class, and run the code of proxies.
    files = [thing for thing in gc.get_objects() if issubclass(type(thing), kinds._IOBase)]
    # Text lies above bytes, and passes `flush` on.
    for file in sorted(files, key=lambda file: not issubclass(type(file), kinds._TextIOBase)):
        try:
            if not file.closed:
                file.flush()
        except Exception as error:
            print(f"what was written to {_name(file)} is lost: {error}", file=sys.stderr)


def _name(file: Any) -> str:
    name = getattr(file, "name", None)
    return repr(name) if isinstance(name, str | bytes | int) else f"a {type(file).__name__}"


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
