"""What a callback answered that is no action, in few words, however large it is; and what to do instead."""

from __future__ import annotations

import inspect
import types

_SHOWN_CHARS = 80

# Of a type that was not made in C (Py_TPFLAGS_HEAPTYPE).
_HEAP_TYPE = 1 << 9

# Their ``repr`` is short and runs no code of the user.
_PLAIN = (bool, float, type(None), types.FunctionType, types.BuiltinFunctionType, type)


def describe(value: object) -> str:
    """``value`` as it is told of; its own ``repr`` is called only where that is known to be harmless."""
    cls = type(value)
    if cls is str or cls is bytes:
        assert isinstance(value, (str, bytes))
        return repr(value[:_SHOWN_CHARS]) + ("..." if len(value) > _SHOWN_CHARS else "")
    if cls is int:
        assert isinstance(value, int)
        return repr(value) if value.bit_length() < 64 else f"an int of {value.bit_length()} bits"
    if cls in _PLAIN:
        return repr(value)[: 2 * _SHOWN_CHARS]
    if cls.__flags__ & _HEAP_TYPE:
        return f"an object of class {_name(cls)}"
    article = "an" if cls.__name__[0] in "aeiou" else "a"
    if cls in (list, tuple, dict, set, frozenset):
        length = len(value)  # type: ignore[arg-type]
        return f"{article} {cls.__name__} of length {length}" if length else repr(value)
    return f"{article} {_name(cls)}"


def advice(value: object, actions: tuple[str, ...]) -> str:
    """What to do instead, in parentheses, where that can be told. Closes a coroutine that nobody will await."""
    if value is None:
        return " (is a return statement missing?)"
    if isinstance(value, types.CoroutineType):
        if inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
            value.close()
        if actions:
            return " (`async def` callbacks need a running event loop: drive the connection within asyncio.run(...))"
        return (
            " (the method is `async def`: make it a plain `def`; what has to be awaited is begun with "
            "self.create_task(coroutine))"
        )
    if isinstance(value, (types.GeneratorType, types.AsyncGeneratorType)):
        return " (the method contains `yield`: return the action instead)"
    if type(value) is bytes and value.decode("latin-1") in actions:
        return " (an action is a str, not bytes)"
    return ""


def _name(cls: type) -> str:
    module, name = cls.__module__, cls.__qualname__
    return name if module == "builtins" else f"{module}.{name}"
