"""Calls from Python to functions that Erlang has registered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erlang._native import native

if TYPE_CHECKING:
    import asyncio

__all__ = ["CallError", "call", "call_async"]


class CallError(Exception):
    """A function that was called in Erlang raised, or ended without an answer.

    The text is what Erlang says of it: class, reason and stack.
    """


CallError.__module__ = "erlang"


def call(name: str, /, *args: Any, timeout: float | None = 5.0) -> Any:
    """Call a function that Erlang registered with ``py:register_function``, and wait for it.

    It runs in an Erlang process of its own. Other Python threads run meanwhile, but the context
    that calls serves no connection: for what takes long, await :func:`call_async`, or send a message
    (:func:`erlang.send`), answer ``"async_pending"``, and have Erlang notify the protocol.

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
    return _result(name, timeout, kind, value)


async def call_async(name: str, /, *args: Any, timeout: float | None = 5.0) -> Any:
    """The same for a task: it waits, and its context serves others meanwhile, and may be asked by the function.

    On a loop that is not a context's, a thread of its default executor waits. A task that is
    cancelled waits no more; the function goes on, and what it returns reaches nobody.

    Args, Returns, Raises: as :func:`call`.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    # Of a context, the loop has this.
    if not hasattr(loop, "_begin_task"):
        kind, value = await loop.run_in_executor(None, native.call, name, args, timeout)
        return _result(name, timeout, kind, value)
    future: asyncio.Future[tuple[str, Any]] = loop.create_future()

    def answered(pair: tuple[str, Any]) -> None:
        if not future.done():
            future.set_result(pair)

    number = native.call_async(name, args, answered)
    if number < 0:
        return _result(name, timeout, "busy", -number)
    try:
        async with asyncio.timeout(timeout):
            kind, value = await future
    except TimeoutError:
        kind, value = "timeout", None
    finally:
        native.forget_call(number)
    return _result(name, timeout, kind, value)


def _result(name: str, timeout: float | None, kind: str, value: Any) -> Any:
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
