#!/usr/bin/env python3
"""uvloop's own tests over loops of erlang.new_event_loop(): a third implementation beside uvloop's and asyncio's.

    uvloop_suite.py                     all of them, on both backends
    uvloop_suite.py --backend uring --module test_tcp -k write      one backend, some tests

They are in uvloop's source distribution, which is downloaded when this is first run, into _build, together with what they need.
For ours the suite makes no exceptions. What is left out stands in left_out.py, each with its reason: what asks for uvloop's own
API is not applicable, and the rest counts against us.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile

from children import ROOT, Suite, parser
from left_out import UVLOOP, UVLOOPS_OWN

VERSION = "0.23.0"
NEEDED = (f"uvloop=={VERSION}", "aiohttp==3.13.2", "psutil==7.1.3", "pyOpenSSL==25.3.0")

CACHE = ROOT / "_build" / "uvloop-suite" / f"{VERSION}-{sys.version.split()[0]}"
PYTHON = CACHE / "venv" / "bin" / "python"
SOURCES = CACHE / f"uvloop-{VERSION}"

# Not test_sourcecode, test_runner and test_testbase, which are about uvloop's code.
MODULES = (
    "test_aiohttp",
    "test_base",
    "test_context",
    "test_cython",
    "test_dealloc",
    "test_dns",
    "test_executors",
    "test_fs_event",
    "test_libuv_api",
    "test_pipes",
    "test_process",
    "test_process_spawning",
    "test_regr1",
    "test_signals",
    "test_sockets",
    "test_tcp",
    "test_udp",
    "test_unix",
)


def set_up() -> None:
    made = CACHE / "made-from"
    wanted = " ".join(NEEDED)
    if made.exists() and made.read_text() == wanted:
        return
    print(f"uvloop's tests: getting what they need into {CACHE}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", CACHE / "venv"], check=True)
    pip = [PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--only-binary", "uvloop", *NEEDED], check=True)
    download = ["download", "--no-deps", "--no-binary", "uvloop", "--dest", CACHE, f"uvloop=={VERSION}"]
    subprocess.run([*pip, *download], check=True)
    with tarfile.open(CACHE / f"uvloop-{VERSION}.tar.gz") as archive:
        # Not its package: the one that is installed is built.
        tests = f"uvloop-{VERSION}/tests"
        archive.extractall(CACHE, [member for member in archive if member.name.startswith(tests)], filter="data")
    made.write_text(wanted)


def main() -> int:
    args = parser(__doc__).parse_args()
    set_up()
    suite = Suite("uvloop's tests", "tests", UVLOOP, str(PYTHON), [SOURCES], UVLOOPS_OWN)
    suite.run(args, MODULES)
    return suite.report()


if __name__ == "__main__":
    sys.exit(main())
