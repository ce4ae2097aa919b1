"""A virtual environment for an interpreter that was started without it; called by native code."""

from __future__ import annotations

import importlib
import os
import site
import sys

_active: str | None = None


def activate(path: str) -> None:
    """Make this interpreter one of the virtual environment at ``path``, as ``site`` does at the start.

    Raises:
        RuntimeError: it has another one already.
    """
    global _active
    path = os.path.abspath(path)
    if _active == path:
        return
    if _active is not None:
        raise RuntimeError(
            f"this interpreter uses the virtual environment {_active}, so it cannot use {path} as well: "
            "contexts in mode worker share one; use subinterp"
        )
    folder = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = os.path.join(path, "lib", folder, "site-packages")
    if not os.path.isdir(packages):
        raise RuntimeError(f"the virtual environment {path} has no directory {packages}")
    _use(path, packages)
    _active = path


def _use(path: str, packages: str) -> None:
    others = _site_directories()
    before = list(sys.path)
    site.addsitedir(packages)
    added = [directory for directory in sys.path if directory not in before] or [packages]
    # Ours come where those of the Python itself were; these come after them or, as a rule, not at all.
    rest = [directory for directory in before if directory not in others and directory not in added]
    shared = [directory for directory in before if directory in others and directory not in added]
    sys.path[:] = [*rest, *added, *(shared if _includes_system_packages(path) else [])]
    sys.prefix = sys.exec_prefix = path
    site.PREFIXES[:] = [path]
    executable = os.path.join(path, "bin", "python3")
    if os.path.exists(executable):
        sys.executable = executable
    importlib.invalidate_caches()


def _site_directories() -> list[str]:
    """Where packages of the Python itself, of its user, and of the environment it was started in lie."""
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    return [*site.getsitepackages(prefixes), site.getusersitepackages()]


def _includes_system_packages(path: str) -> bool:
    with open(os.path.join(path, "pyvenv.cfg"), encoding="utf-8") as config:
        settings = [line.partition("=") for line in config]
    return any(
        key.strip().lower() == "include-system-site-packages" and value.strip().lower() == "true"
        for key, _, value in settings
    )
