"""Extension modules in an interpreter of a context's own.

Before 3.12 all interpreters load all modules. But some belong to the first one that loads them: after its end they
are lost to all others, the main one included. They are refused.

On 3.12 a module that cannot be in two interpreters is refused there, but only after its initialisation has
run: a second time, and over what it had set up the first time. Even ``import decimal`` in two
interpreters ends the process. A module that the main interpreter has loaded is refused before, so
that one loads it first. Python 3.13 does this itself; earlier ones refuse nothing.

But where the initialisation raises, 3.13 and 3.14 free in the one interpreter what was made in the other, and the process ends
(python/cpython#144601): protobuf's does. So the main interpreter loads what is not Python's own, as on 3.12,
and what it cannot load is refused.

On 3.13 ``_datetime`` shares its types between interpreters, and takes them apart with the last of
those that had it, before the others are done: the process ends. The main interpreter, which never
ends, has it first.

So it is whether a module has a file of its own or is built in, as many of Debian's are.

On 3.12 ``_datetime`` is refused, and ``datetime`` does without it. Who takes the insides of its types for those of the ones in C
reads what is not there, and the process ends: asyncpg does, with the first time that it sends. So these are refused, too.
"""

from __future__ import annotations

import mmap
import sys
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


_SHARED_TYPES = {"_datetime"}

# What such a module raises in the second interpreter, and so has in its file: numpy, what Cython makes, and PyO3.
_OF_ONE_INTERPRETER = (
    b"cannot load module more than once per process",
    b"Interpreter change detected",
    b"modules do not yet support subinterpreters",
)

# What a module has in its file that uses the types of `_datetime` by their insides.
_OF_C_DATETIME = (b"datetime.datetime_CAPI",)


def install(load_in_main: Callable[[str, str | None], None]) -> None:
    """Have ``load_in_main(name, path)`` called before an extension module is made here; without a path it is imported there."""
    original = ExtensionFileLoader.create_module
    if sys.version_info < (3, 12):

        def refuse_or_create(self: ExtensionFileLoader, spec: ModuleSpec) -> ModuleType:
            if _contains(self.path, _OF_ONE_INTERPRETER):
                raise ImportError(
                    f"{self.name} belongs to the first interpreter that loads it, for ever: import it in a context of mode worker",
                    name=self.name,
                    path=self.path,
                )
            return original(self, spec)

        ExtensionFileLoader.create_module = refuse_or_create  # type: ignore[method-assign, unused-ignore]
        return

    original_of_builtin = BuiltinImporter.create_module

    def create_module(self: ExtensionFileLoader, spec: ModuleSpec) -> ModuleType:
        if sys.version_info < (3, 13) and self.name != "_datetime" and _contains(self.path, _OF_C_DATETIME):
            raise _needs_c_datetime(self.name, self.path)
        if sys.version_info >= (3, 13) and self.name in _SHARED_TYPES:
            # It has to be set up there as well.
            load_in_main(self.name, None)
        elif sys.version_info < (3, 13) or self.name.partition(".")[0] not in sys.stdlib_module_names:
            load_in_main(self.name, self.path)
        return original(self, spec)

    def create_builtin(spec: ModuleSpec) -> ModuleType | None:
        if sys.version_info < (3, 13) and spec.name == "_zoneinfo":
            raise _needs_c_datetime(spec.name, None)
        if sys.version_info < (3, 13) or spec.name in _SHARED_TYPES:
            load_in_main(spec.name, None)
        return original_of_builtin(spec)

    # Not all versions come this far, and mypy with them.
    ExtensionFileLoader.create_module = create_module  # type: ignore[method-assign, unused-ignore]
    BuiltinImporter.create_module = staticmethod(create_builtin)  # type: ignore[method-assign, unused-ignore]


def _needs_c_datetime(name: str, path: str | None) -> ImportError:
    why = "needs _datetime, which Python 3.12 has in its main interpreter only: import it in a context of mode worker"
    return ImportError(f"{name} {why}", name=name, path=path)


def _contains(path: str, texts: tuple[bytes, ...]) -> bool:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(text) >= 0 for text in texts)
    except (OSError, ValueError):
        # Loading it will say why.
        return False
