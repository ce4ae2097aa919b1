"""Helpers that native code calls; nothing here is for users."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

# Half is kept from the start and half from the end, where the exception itself stands.
TRACEBACK_LIMIT_CHARS = 16384

_NO_TEXT = "<exception str() failed>"

# Whoever does not use asyncio does not import it.
_OUR_MODULES = (__name__, "asyncio")


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
