"""The environment variables that a context's option ``env`` sets; called by native code."""

from __future__ import annotations

import os
from typing import Any


def set_variables(variables: list[tuple[str, str | None]], everywhere: bool) -> None:
    """Set variables, or take those away that have no value.

    ``everywhere``: as code does that assigns to ``os.environ``, in the process as well, where C code finds them. Otherwise
    in ``os.environ`` of this interpreter alone: the process belongs to others, too.
    """
    environ: Any = os.environ
    target: Any = environ if everywhere else _Mapping(environ)
    for name, value in variables:
        if value is not None:
            target[name] = value
        elif name in environ:
            del target[name]


class _Mapping:
    """``os.environ`` without the process behind it."""

    def __init__(self, environ: Any) -> None:
        self._environ = environ

    def __setitem__(self, name: str, value: str) -> None:
        self._environ._data[self._environ.encodekey(name)] = self._environ.encodevalue(value)

    def __delitem__(self, name: str) -> None:
        del self._environ._data[self._environ.encodekey(name)]
