"""What the threads of this interpreter do just now, for people who look for a fault."""

from __future__ import annotations

import sys
import traceback

_THREADS_MAX = 64
_STACK_LIMIT_CHARS = 16384


def stacks(own: int) -> list[tuple[str, str]]:
    """Each thread and its stack as a traceback prints it, the context's own first; "" where no Python code runs."""
    frames = sys._current_frames()
    me = sys._getframe()
    found = [("the context's thread", _text(frames.pop(own, None)))]
    for ident, frame in frames.items():
        if frame is not me and len(found) < _THREADS_MAX:
            found.append((_name(ident), _text(frame)))
    return found


def _text(frame: object) -> str:
    if frame is None:
        return ""
    text = "".join(traceback.format_stack(frame))  # type: ignore[arg-type]
    if len(text) > _STACK_LIMIT_CHARS:
        # The innermost calls come last.
        text = f"[... {len(text) - _STACK_LIMIT_CHARS} characters left out ...]\n{text[-_STACK_LIMIT_CHARS:]}"
    return text.encode("utf-8", "backslashreplace").decode()


def _name(ident: int) -> str:
    # Without threading's lock, which whoever does not return may hold.
    active = getattr(sys.modules.get("threading"), "_active", {})
    thread = active.get(ident)
    return f"thread {ident}" if thread is None else f"thread {ident}, {thread.name}"
