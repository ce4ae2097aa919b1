"""Calls from Python to functions that Erlang has registered."""

from __future__ import annotations

from typing import Any

from erlang._native import native

__all__ = ["CallError", "call"]


class CallError(Exception):
    """A function that was called in Erlang raised, or ended without an answer.

    The text is what Erlang says of it: class, reason and stack.
    """


CallError.__module__ = "erlang"


def call(name: str, /, *args: Any, timeout: float | None = 5.0) -> Any:
    """Call a function that Erlang registered with ``py:register_function``, and wait for it.

    It runs in an Erlang process of its own. Other Python threads run meanwhile, but the context
    that calls serves no connection: for what takes long, send a message (:func:`erlang.send`),
    answer ``"async_pending"``, and have Erlang notify the protocol.

    Args:
        name: what the function was registered as.
        args: its arguments, converted as the result of ``py:call`` is.
        timeout: seconds to wait at most; None: without limit. The function is not ended by it.

    Returns:
        What the function returned, converted as the arguments of ``py:call`` are.

    Raises:
        LookupError: no function is registered as ``name``.
        TypeError, ValueError: it takes another number of arguments; or an argument, or what it
            returned, has no counterpart.
        CallError: it raised or exited.
        TimeoutError: it did not return in time.
        BlockingIOError: too many calls run already.
        RuntimeError: the context was killed meanwhile; or outside the Erlang VM.
    """
    kind, value = native.call(name, args, timeout)
    match kind:
        case "ok":
            return value
        case "not_registered":
            raise LookupError(f"no function is registered as {name!r}: see py:register_function/2")
        case "bad_arity":
            raise TypeError(value)
        case "unsupported":
            raise TypeError(f"what the Erlang function {name!r} returned cannot be converted: {value}")
        case "raised":
            raise CallError(f"the Erlang function {name!r} failed: {value}")
        case "timeout":
            raise TimeoutError(f"the Erlang function {name!r} did not return within {timeout} s")
        case "busy":
            raise BlockingIOError(f"the Erlang function {name!r} was not called: {value} calls run already")
        case "gone":
            raise CallError(f"the Erlang function {name!r} ended without an answer")
        case "killed":
            raise RuntimeError(f"the context was killed while it waited for the Erlang function {name!r}")
    raise CallError(f"the Erlang function {name!r}: unknown answer {kind!r}")


def step() -> None:
    """Nothing: what waits to be raised in this thread is raised here."""
