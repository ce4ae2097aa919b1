"""Prints the executable of this Python if the reactor can be built with it; else says why not, and exits with 1.

It must run on the Pythons that it refuses: no syntax that is younger than they are.
"""

import os
import sys
import sysconfig

OLDEST = (3, 11)


def problem():
    if sys.version_info < OLDEST:
        return "it is %d.%d, and 3.11 is the oldest that is supported" % sys.version_info[:2]
    if sys.implementation.name != "cpython":
        return "it is %s, and only CPython can be embedded" % sys.implementation.name
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return (
            "it is a free-threaded build. The receive buffers are laid out as objects of a Python with a GIL, "
            "and the GIL guards what threads share"
        )
    library = sysconfig.get_config_var("LDLIBRARY") or ""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or ".so" not in library:
        return (
            "it has no shared library. Build it with --enable-shared "
            "(pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install ...)"
        )
    path = os.path.join(sysconfig.get_config_var("LIBDIR") or "", library)
    if not os.path.exists(path):
        return "its shared library %s is not installed (Debian: apt-get install python3-dev)" % path
    return None


if __name__ == "__main__":
    reason = problem()
    if reason is not None:
        sys.exit(
            "py_reactor: %s cannot be used: %s.\nSet PYTHON=/path/to/python3 to use another." % (sys.executable, reason)
        )
    sys.stdout.write(sys.executable + "\n")
