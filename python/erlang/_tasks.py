"""What a context runs beside its connections: tasks of its own, and what begins and ends with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from erlang._event_loops import event_loop

if TYPE_CHECKING:
    import asyncio

    from erlang._loop import ContextLoop

_Result = TypeVar("_Result")
_Function = TypeVar("_Function", bound=Callable[[], Any])


def spawn(coro: Coroutine[Any, Any, _Result], *, name: str | None = None) -> asyncio.Task[_Result]:
    """Begin a task of this thread's context, which keeps it until it ends; also in ``py:exec`` and ``setup_code``.

    It is cancelled when the context ends. What it raises is logged.

    Raises:
        RuntimeError: the calling thread is not a context's.
    """
    try:
        loop = cast("ContextLoop", event_loop())
    except RuntimeError:
        coro.close()
        raise
    return loop._spawn(coro, name)


def on_start(function: _Function) -> _Function:
    """Have ``function()`` called as soon as this thread's context serves, a coroutine that it returns awaited.

    Returns:
        The function, so that this can be a decorator.
    """
    event_loop().call_soon(_start, function)
    return function


def on_stop(function: _Function) -> _Function:
    """Have ``function()`` called when this thread's context stops, once its connections have ended.

    A coroutine that it returns is awaited, within what is left of ``drain_ms``, and at least half a
    second; then tasks are cancelled. The last that was given comes first. What it raises is logged.

    Returns:
        The function, so that this can be a decorator.
    """
    cast("ContextLoop", event_loop())._at_stop.append(function)
    return function


def _start(function: Callable[[], Any]) -> None:
    result = function()
    if inspect.iscoroutine(result):
        spawn(result)
