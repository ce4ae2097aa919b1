"""Which Pythons the build refuses, and what it says."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_python.py"


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_python", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_variables(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    real = sysconfig.get_config_var
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: changed.get(name, real(name)))


def test_this_one_can_be_used(check: ModuleType) -> None:
    assert check.problem() is None


def test_free_threaded_builds_are_refused(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with_variables(monkeypatch, Py_GIL_DISABLED=1)
    assert "free-threaded" in check.problem()


def test_static_builds_are_refused(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with_variables(monkeypatch, Py_ENABLE_SHARED=0)
    assert "--enable-shared" in check.problem()


def test_a_library_that_is_not_installed_is_named(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with_variables(monkeypatch, LDLIBRARY="libpython9.99.so")
    assert "libpython9.99.so is not installed" in check.problem()


def test_old_ones_are_refused(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    assert check.problem() == "it is 3.10, and 3.11 is the oldest that is supported"
