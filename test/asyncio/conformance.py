#!/usr/bin/env python3
"""CPython's own tests of asyncio over loops of erlang.new_event_loop(), in a plain Python that has the native module.

    conformance.py                      all of them
    conformance.py --core               a core, on one backend, for every run of the tests
    conformance.py --backend uring -k call_soon     one backend (default: both), some tests

The tests come with Python (Debian: libpython3.13-testsuite, for each version); without them, this says so and ends well. What
is left out stands in left_out.py, each with its reason.
"""

from __future__ import annotations

import importlib.util
import sys

from children import Suite, parser
from left_out import CPYTHON

MODULES = (
    "test_events",
    "test_base_events",
    "test_tasks",
    "test_futures",
    "test_futures2",
    "test_timeouts",
    "test_taskgroups",
    "test_locks",
    "test_queues",
    "test_runners",
    "test_context",
    "test_graph",
    "test_free_threading",
    "test_threads",
    "test_waitfor",
    "test_pep492",
    "test_eager_task_factory",
    "test_staggered",
    "test_protocols",
    "test_transports",
    "test_sock_lowlevel",
    "test_streams",
    "test_server",
    "test_server_context",
    "test_buffered_proto",
    "test_sendfile",
    "test_sslproto",
    "test_ssl",
    "test_unix_events",
    "test_subprocess",
)

CORE = (
    "test_events:SelectEventLoopTests.test_call_*",
    "test_events:SelectEventLoopTests.test_run_*",
    "test_events:SelectEventLoopTests.test_add_*",
    "test_events:SelectEventLoopTests.test_create_*",
    "test_events:SelectEventLoopTests.test_*_pipe*",
    "test_tasks:CTask_CFuture_Tests.*",
    "test_futures:CFutureTests.*",
    "test_timeouts:*",
    "test_taskgroups:*",
    "test_runners:*",
    "test_waitfor:*",
    "test_sock_lowlevel:*",
    "test_streams:*",
    "test_server:*",
    "test_server_context:*",
    "test_graph:*",
    "test_buffered_proto:*",
    "test_sendfile:*.test_sock_sendfile_*",
    "test_sslproto:SelectorStartTLSTests.*_buf*",
)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--core", action="store_true")
    args = options.parse_args()
    if importlib.util.find_spec("test.test_asyncio") is None:
        package = f"libpython3.{sys.version_info.minor}-testsuite"
        print(f"asyncio: {sys.executable} has no test package, nothing is tested (Debian: {package})")
        return 0
    modules = [module for module in MODULES if importlib.util.find_spec(f"test.test_asyncio.{module}")]
    suite = Suite("asyncio", "test.test_asyncio", CPYTHON, sys.executable)
    if args.core:
        args.backend = args.backend or ["auto"]
        suite.run(args, [module for module in modules if any(p.startswith(f"{module}:") for p in CORE)], CORE)
    else:
        suite.run(args, modules)
    return suite.report()


if __name__ == "__main__":
    sys.exit(main())
