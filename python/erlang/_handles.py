"""What native handles of an event loop are asked for seldom: their text, debug mode, exceptions. Called by native code."""

from __future__ import annotations

import functools
import sys
from asyncio import base_events, format_helpers, futures, isfuture, tasks
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio


def describe(handle: Any) -> str:
    """As asyncio's own handles are shown."""
    if handle._repr is not None:
        return str(handle._repr)
    info = [handle.__class__.__name__]
    if handle._cancelled:
        info.append("cancelled")
    if hasattr(handle, "when"):
        info.append(f"when={handle.when()}")
    if handle._callback is not None:
        info.append(_source(handle))
    if handle._source_traceback:
        frame = handle._source_traceback[-1]
        info.append(f"created at {frame[0]}:{frame[1]}")
    return f"<{' '.join(info)}>"


def failed(handle: Any, exc: BaseException) -> None:
    """Tell the loop's exception handler that the callback of ``handle`` has raised."""
    context = {"message": f"Exception in callback {_source(handle)}", "exception": exc, "handle": handle}
    if handle._source_traceback:
        context["source_traceback"] = handle._source_traceback
    handle._loop.call_exception_handler(context)


_repeatable: set[Callable[..., None]] = set()

_Function = TypeVar("_Function", bound=Callable[..., None])


def repeatable(function: _Function) -> _Function:
    """Mark a method that somebody waits for: if it is interrupted, it is called once more at once, and goes on."""
    _repeatable.add(function)
    return function


def interrupted(handle: Any, exc: BaseException) -> None:
    """See to it that nobody waits for ever for what an interrupt has kept ``handle`` from doing.

    It may have come in asyncio's own code: before a task's step, or after it, where the next one is
    scheduled. Then the task ends by it, at its next step. What ends a sleep is done again, and what is `repeatable`.
    """
    callback, loop = handle._callback, handle._loop
    if getattr(callback, "__func__", None) in _repeatable:
        callback(*handle._args)
        return
    if callback is futures._set_result_unless_cancelled:  # type: ignore[attr-defined]
        if not handle._args[0].done():
            callback(*handle._args)
        return
    task = getattr(callback, "__self__", None)
    step = getattr(task, "_Task__step", None)
    if isinstance(task, tasks.Task) and step is not None and not task.done():
        if tasks._current_tasks.get(loop) is task:  # type: ignore[attr-defined]
            del tasks._current_tasks[loop]  # type: ignore[attr-defined]
        loop.call_soon(step, exc, context=handle._context)


# What asyncio calls to tell who waits of what is there.
TELLING = frozenset(f"asyncio.{name}" for name in ("futures", "tasks", "taskgroups", "timeouts"))


def serves(callback: Any, task: asyncio.Task[Any] | None) -> bool | None:
    """Is ``callback`` a step of ``task``, or of one that it waits for, which its cancellation would reach?

    Without a task: may it be ended? What others wait for must not be kept from them by an interrupt in asyncio's own code. None:
    only where the thread has left that, for code of others that it calls.
    """
    if task is None:
        function = callback.func if isinstance(callback, functools.partial) else callback
        is_step = isinstance(getattr(callback, "__self__", None), tasks.Task)
        return True if is_step or getattr(function, "__module__", None) not in TELLING else None
    todo, seen = [getattr(callback, "__self__", None)], set()
    while todo:
        future = todo.pop()
        if future is task:
            return True
        if isfuture(future) and future not in seen:
            seen.add(future)
            for waiting, _ in future._callbacks or ():
                todo += _cancelling(waiting)
    return False


def _cancelling(callback: Any) -> list[Any]:
    """What is cancelled before that which has ``callback`` as one that is called when it is done."""
    bound = getattr(callback, "__self__", None)
    cells = [cell.cell_contents for cell in getattr(callback, "__closure__", None) or ()]
    gathering = [held for held in cells if isinstance(held, tasks._GatheringFuture)]  # type: ignore[attr-defined]
    # `wait_for`, before 3.12.
    waiters = callback.args if isinstance(callback, functools.partial) else ()
    # A group's task is one that the group's owner has begun.
    return [bound, getattr(bound, "_parent_task", None), *gathering, *waiters]


def check(handle: Any, method: str) -> None:
    """In debug mode: is what ``method`` was given a callback, and was it called on the loop's thread?"""
    loop = handle._loop
    if method != "call_soon_threadsafe":
        loop._check_thread()
    loop._check_callback(handle._callback, method)
    handle._source_traceback = format_helpers.extract_stack(sys._getframe(1))


def trace(handle: Any) -> None:
    """In debug mode: note where ``handle`` was made."""
    handle._source_traceback = format_helpers.extract_stack(sys._getframe(1))


def run(handle: Any) -> None:
    """In debug mode: run ``handle``, and say so if it takes long."""
    loop = handle._loop
    loop._current_handle = handle
    try:
        began = loop.time()
        handle._run()
        took = loop.time() - began
        if took >= loop.slow_callback_duration:
            shown = base_events._format_handle(handle)  # type: ignore[attr-defined]
            base_events.logger.warning("Executing %s took %.3f seconds", shown, took)  # type: ignore[attr-defined]
    finally:
        loop._current_handle = None
        # An exception that a task keeps has this frame, which would keep the task.
        handle = None


def _source(handle: Any) -> str:
    return str(format_helpers._format_callback_source(handle._callback, handle._args))
