"""What the threads of this interpreter and the tasks of a context do just now, for people who look for a fault."""

from __future__ import annotations

import sys
import traceback
from types import FrameType
from typing import Any

Stack = tuple[Any, list[tuple[str, int, str]]]
"""The object of ``threading`` that a thread has, if it has one; its calls, by file, line and function, the innermost first."""

_STACK_LIMIT_CHARS = 16384
_TASKS_MAX = 256
_TASK_FRAMES_MAX = 32
_TASK_LIMIT_CHARS = 4096


def look(own: int, found: list[Stack]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The stacks of the threads, and those of the tasks of the context whose thread this is."""
    return stacks(found), tasks(own)


def stacks(found: list[Stack]) -> list[tuple[str, str]]:
    """Each thread and its stack as a traceback prints it, the context's own first; "" where no Python code runs."""
    (_, own), *others = found
    return [("the context's thread", _text(own)), *((_name(thread), _text(calls)) for thread, calls in others)]


def tasks(own: int) -> list[tuple[str, str]]:
    """Each task of the context's loop and where it waits, the innermost call last; so many at most."""
    module = sys.modules.get("erlang._loop")
    loop = module.of_thread(own) if module is not None else None
    if loop is None:
        return []
    found = sorted(sys.modules["asyncio"].all_tasks(loop), key=_age)
    told = [(_title(task), _waits(task)) for task in found[:_TASKS_MAX]]
    if len(found) > _TASKS_MAX:
        told.append((f"[... {len(found) - _TASKS_MAX} tasks left out ...]", ""))
    return told


def _age(task: Any) -> tuple[int, str]:
    # By the numbers in the names that asyncio gives.
    name = str(task.get_name())
    return (len(name), name)


def _title(task: Any) -> str:
    coro = task.get_coro()
    what = getattr(coro, "__qualname__", None) or type(coro).__name__
    return _printable(f"{task.get_name()}, {what}"[:256])


def _waits(task: Any) -> str:
    # Not get_stack(): of a task that waits, it knows the outermost call only.
    frames: list[tuple[FrameType, int]] = []
    awaited = task.get_coro()
    while awaited is not None and len(frames) < _TASK_FRAMES_MAX:
        frame, inner = None, None
        for prefix, inside in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            if hasattr(awaited, f"{prefix}_frame"):
                frame, inner = getattr(awaited, f"{prefix}_frame"), getattr(awaited, f"{prefix}_{inside}")
                break
        if frame is not None:
            frames.append((frame, frame.f_lineno))
        awaited = inner
    return _shortened("".join(traceback.StackSummary.extract(iter(frames)).format()), _TASK_LIMIT_CHARS)


def _text(calls: list[tuple[str, int, str]]) -> str:
    summary = [traceback.FrameSummary(*call, lookup_line=False) for call in reversed(calls)]
    return _shortened("".join(traceback.StackSummary.from_list(summary).format()), _STACK_LIMIT_CHARS)


def _shortened(text: str, limit: int) -> str:
    if len(text) > limit:
        # The innermost calls come last.
        text = f"[... {len(text) - limit} characters left out ...]\n{text[-limit:]}"
    return _printable(text)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _name(thread: Any) -> str:
    threading = sys.modules.get("threading")
    if threading is None or not isinstance(thread, threading.Thread):
        return "a thread that Python's threading has not started"
    return f"thread {thread.ident}, {thread.name}"
