"""Helpers that native code calls; nothing here is for users."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

_T = TypeVar("_T")

# Half is kept from the start and half from the end, where the exception itself stands.
TRACEBACK_LIMIT_CHARS = 16384

# How long the end of an interrupted loop may take.
_END_SECONDS = 0.5

_NO_TEXT = "<exception str() failed>"

# Whoever does not use asyncio does not import it.
_OUR_MODULES = (__name__, "asyncio")


def run(coro: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end on an event loop of its own; returns or raises what it does.

    Works on any thread with no running event loop; off the main thread no signal handler is set.
    """
    import asyncio

    runner = asyncio.Runner()
    try:
        return runner.run(coro)
    except Exception:
        raise
    except BaseException:
        # It may have come between the loop's taking a step of a task and making it. Whoever waits
        # for that task, as the end of a runner does, would wait for ever.
        loop = runner.get_loop()
        loop.call_later(_END_SECONDS, loop.stop)
        with contextlib.suppress(RuntimeError):
            runner.close()
        raise
    finally:
        runner.close()


def describe_exception(exc: BaseException) -> tuple[str, str]:
    """The text, and the traceback as Python prints it, of bounded length, always encodable as UTF-8.

    The outermost frames are left out as long as they are this package's or asyncio's. A text that
    cannot be had, or whose making was interrupted, is not asked for a second time.
    """
    frames = _skip_own(exc.__traceback__) or exc.__traceback__
    try:
        message = shorten(str(exc))
    except BaseException:
        stack = "".join(traceback.format_tb(frames))
        text = f"{_class_name(type(exc))}: {_NO_TEXT}\n"
        return _NO_TEXT, shorten(f"Traceback (most recent call last):\n{stack}{text}")
    return message, shorten("".join(traceback.format_exception(type(exc), exc, frames)))


def shorten(text: str) -> str:
    """The text, of bounded length, encodable as UTF-8."""
    if len(text) > TRACEBACK_LIMIT_CHARS:
        half = TRACEBACK_LIMIT_CHARS // 2
        cut = len(text) - 2 * half
        text = f"{text[:half]}\n[... {cut} characters left out ...]\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()


def _class_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _skip_own(frames: TracebackType | None) -> TracebackType | None:
    files = [sys.modules[name].__file__ for name in _OUR_MODULES if name in sys.modules]
    folders = tuple(os.path.dirname(file) + os.sep for file in files if file)
    while frames and frames.tb_frame.f_code.co_filename.startswith(folders):
        frames = frames.tb_next
    return frames
