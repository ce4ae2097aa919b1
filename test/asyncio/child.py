"""Runs tests of CPython's own suite for asyncio over loops of erlang.new_event_loop; a child of conformance.py.

    child.py MODULE BACKEND list        prints the names of the tests, one a line
    child.py MODULE BACKEND run NAME... runs them; prints a line for each: its name, "ok", "skipped" or the traceback as JSON

Wherever a test makes a loop without saying of which kind, it is ours.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import json
import sys
import unittest
from typing import Any

SECONDS_PER_TEST = 60


def main() -> None:
    module_name, backend, what, *names = sys.argv[1:]
    sys.modules["__main__"].__spec__ = None
    put_ours_in(backend)
    module = importlib.import_module(f"test.test_asyncio.{module_name}")
    if hasattr(module, "EventLoopTestsMixin"):
        add_event_loop_tests(module)
    tests = {test.id().split(".", 3)[3]: test for test in flattened(unittest.defaultTestLoader.loadTestsFromModule(module))}
    if what == "list":
        print("\n".join(tests))
        return
    for name in names:
        faulthandler.dump_traceback_later(SECONDS_PER_TEST, exit=True)
        print(json.dumps([name, *outcome(tests[name])]), flush=True)
        faulthandler.cancel_dump_traceback_later()


def put_ours_in(backend: str) -> None:
    """Have the default policy and the suite's own helper make our loops."""
    from erlang._loop import Loop
    from test.test_asyncio import utils

    def new_loop(*args: object) -> asyncio.AbstractEventLoop:
        return Loop(backend)

    policy: Any = asyncio.DefaultEventLoopPolicy
    policy._loop_factory = staticmethod(new_loop)
    with_clock = utils.TestCase.new_test_loop

    def new_test_loop(self: Any, gen: Any = None) -> Any:
        """One that is given a clock stays what it is."""
        if gen is not None:
            return with_clock(self, gen)
        loop = new_loop()
        self.set_event_loop(loop)
        return loop

    utils.TestCase.new_test_loop = new_test_loop


def add_event_loop_tests(module: Any) -> None:
    """Of a mixin for each kind of loop: one more kind."""
    mixins = (module.UnixEventLoopTestsMixin, module.SubprocessTestsMixin, module.test_utils.TestCase)

    def create_event_loop(self: Any) -> asyncio.AbstractEventLoop:
        return asyncio.DefaultEventLoopPolicy._loop_factory()  # type: ignore[attr-defined]

    module.ReactorEventLoopTests = type(
        "ReactorEventLoopTests", mixins, {"create_event_loop": create_event_loop, "__module__": module.__name__}
    )
    for kind in ("SelectEventLoopTests", "PollEventLoopTests", "EPollEventLoopTests", "KqueueEventLoopTests"):
        if hasattr(module, kind):
            delattr(module, kind)


def flattened(suite: Any) -> Any:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flattened(test)
        else:
            yield test


def outcome(test: unittest.TestCase) -> tuple[str, str]:
    result = unittest.TestResult()
    # With what its class and its module want before and afterwards.
    unittest.TestSuite([test]).run(result)
    if result.skipped:
        return "skipped", result.skipped[0][1]
    wrong = result.errors + result.failures + [(t, "it was not to succeed") for t in result.unexpectedSuccesses]
    return ("failed", wrong[0][1]) if wrong else ("ok", "")


if __name__ == "__main__":
    main()
