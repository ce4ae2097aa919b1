"""What an interpreter of a context's own has the main one load first."""

from __future__ import annotations

import sys
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec

import pytest

from erlang import _extensions


@pytest.mark.skipif(sys.version_info < (3, 12), reason="such an interpreter loads all modules, or refuses them")
def test_a_module_that_is_built_in_comes_first_in_the_main_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    for loader in (BuiltinImporter, ExtensionFileLoader):
        monkeypatch.setattr(loader, "create_module", loader.create_module)
    monkeypatch.setattr(_extensions, "_SHARED_TYPES", {"time"})
    loaded: list[tuple[str, str | None]] = []
    _extensions.install(lambda name, path: loaded.append((name, path)))
    module = module_from_spec(ModuleSpec("time", BuiltinImporter))
    assert loaded == [("time", None)]
    assert module.monotonic() > 0
