"""Notices the first import of asyncio in an interpreter: from then on its contexts are event loops. Called by native code.

Who never imports it pays nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_NAME = "asyncio"


def watch(imported: Callable[[], None], *, is_main: bool) -> None:
    """Have ``imported()`` called once asyncio is there."""
    if not is_main and sys.version_info < (3, 12):
        # It is shared between interpreters there, and gives the second one the exceptions of the first.
        sys.modules.setdefault("_asyncio", None)  # type: ignore[arg-type]
    if _NAME in sys.modules:
        imported()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(imported))


class _Finder:
    """Finds asyncio where the others do."""

    def __init__(self, imported: Callable[[], None]) -> None:
        self._imported = imported

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != _NAME:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                spec.loader = _Loader(spec.loader, self)
                return spec
        return None

    def done(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self._imported()


class _Loader:
    """Loads as the loader that it stands for, then says so.

    An import that was interrupted before has left what it had imported of the package, whose new module
    does not know that: asyncio looks for names there which only an import would make.
    """

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: Any) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        for name, part in list(sys.modules.items()):
            if name.startswith(f"{_NAME}.") and name.count(".") == 1 and part is not None:
                setattr(module, name.partition(".")[2], part)
        self._loader.exec_module(module)
        self._finder.done()
