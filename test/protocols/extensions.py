"""The extension modules of this Python, as an interpreter has them that has used much."""

import importlib
import os
import sys

# For their own tests; what need not be imported, or is there already.
_LEFT_OUT = ("_test", "_xxtest", "_ctypes_test", "xx", "builtins", "sys")
kept = []


def names():
    directories = [path for path in sys.path if os.path.basename(path) == "lib-dynload"]
    found = {name.partition(".")[0] for path in directories for name in os.listdir(path) if ".so" in name}
    return sorted(name for name in found | set(sys.builtin_module_names) if not name.startswith(_LEFT_OUT))


def use_all():
    """Import them and make an instance of each type that asks for no arguments. Answers how many were not refused."""
    count = 0
    for name in names():
        try:
            module = importlib.import_module(name)
        except (ImportError, AttributeError):
            # Refused; or `_zoneinfo` has found a `datetime` without the C part that was refused.
            continue
        count += 1
        for value in list(vars(module).values()):
            if isinstance(value, type):
                try:
                    kept.append(value())
                except Exception:
                    continue
    return count
