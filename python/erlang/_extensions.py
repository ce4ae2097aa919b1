"""Extension modules in an interpreter of a context's own, on Python 3.12 and later.

On 3.12 a module that cannot be in two interpreters is refused there, but only after its initialisation has
run: a second time, and over what it had set up the first time. Even ``import decimal`` in two
interpreters ends the process. A module that the main interpreter has loaded is refused before, so
that one loads it first. Python 3.13 does this itself; earlier ones refuse nothing.

On 3.13 ``_datetime`` shares its types between interpreters, and takes them apart with the last of
those that had it, before the others are done: the process ends. The main interpreter, which never
ends, has it first.
"""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


_SHARED_TYPES = {"_datetime"}


def install(load_in_main: Callable[[str, str], None]) -> None:
    """Have ``load_in_main(name, path)`` called before an extension module is made here."""
    if sys.version_info < (3, 12):
        return
    original = ExtensionFileLoader.create_module

    def create_module(self: ExtensionFileLoader, spec: ModuleSpec) -> ModuleType:
        if sys.version_info < (3, 13) or self.name in _SHARED_TYPES:
            load_in_main(self.name, self.path)
        return original(self, spec)

    # Not all versions come this far, and mypy with them.
    ExtensionFileLoader.create_module = create_module  # type: ignore[method-assign, unused-ignore]
