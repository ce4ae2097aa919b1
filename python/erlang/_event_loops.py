"""Event loops: the one of a context, and loops of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from erlang._native import native

if TYPE_CHECKING:
    import asyncio


def event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this thread's context, also where it is not the running one: in ``py:exec`` and its kin.

    Raises:
        RuntimeError: the calling thread is not a context's.
    """
    found: asyncio.AbstractEventLoop | None = native.event_loop()
    if found is None:
        raise RuntimeError(
            "erlang.event_loop() is known on the thread of a context only, inside the Erlang VM: "
            "ask there, and pass the loop on"
        )
    return found


def new_event_loop(*, backend: Literal["auto", "uring", "epoll"] = "auto") -> asyncio.AbstractEventLoop:
    """An event loop of one's own, over the reactor, for ``run_until_complete`` and ``asyncio.Runner(loop_factory=...)``.

    Args:
        backend: as of a context.

    Raises:
        RuntimeError: this is neither the Erlang VM nor a Python that has the native module on its path.
    """
    if not hasattr(native, "loop_type"):
        raise RuntimeError(
            "there is no native module: in a plain Python, put the folder alone of py_reactor's priv on sys.path, "
            "beside the folder python"
        )
    from erlang._loop import Loop

    return Loop(backend)
