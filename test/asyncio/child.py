"""Runs tests of somebody else's suite over loops of erlang.new_event_loop; a child of children.py.

    child.py MODULE BACKEND list        prints the names of the tests, one a line
    child.py MODULE BACKEND run NAME... runs them; prints a line for each: its name, "ok", "skipped" or "failed", and why as JSON

Wherever a test makes a loop with a selector, whichever, it is ours; and where it makes one of uvloop's.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import json
import os
import signal
import sys
import unittest
from typing import Any

from erlang import _tls
from erlang._loop import Loop

SECONDS_PER_TEST = 60


def main() -> None:
    module_name, backend, what, *names = sys.argv[1:]
    sys.modules["__main__"].__spec__ = None
    # Ignored by what a shell runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Ours(Loop):
        def __init__(self, selector: object = None) -> None:
            super().__init__(backend)

    put_into_asyncio(Ours)
    if module_name.startswith("test.test_asyncio."):
        put_into_cpythons_suite(Ours)
    else:
        put_into_uvloops_suite(Ours)
    module = importlib.import_module(module_name)
    leave_out_other_loops(module)
    found = flattened(unittest.defaultTestLoader.loadTestsFromModule(module))
    tests = {test.id().removeprefix(f"{module_name}."): test for test in found}
    if what == "list":
        print("\n".join(tests))
        return
    for name in names:
        faulthandler.dump_traceback_later(SECONDS_PER_TEST, exit=True)
        print(json.dumps([name, *outcome(tests[name])]), flush=True)
        faulthandler.cancel_dump_traceback_later()
    # A thread that a test has left behind would be waited for.
    os._exit(0)


def put_into_asyncio(ours: type[Loop]) -> None:
    # The public name is deprecated since 3.14.
    names = vars(asyncio.unix_events)
    policy: Any = names.get("_DefaultEventLoopPolicy") or names["DefaultEventLoopPolicy"]
    policy._loop_factory = ours
    asyncio.SelectorEventLoop = asyncio.EventLoop = ours  # type: ignore[misc, attr-defined]


def put_into_cpythons_suite(ours: type[Loop]) -> None:
    from test.test_asyncio import utils

    with_clock = utils.TestCase.new_test_loop

    def new_test_loop(self: Any, gen: Any = None) -> Any:
        """One that is given a clock stays what it is."""
        if gen is not None:
            return with_clock(self, gen)
        loop = ours()
        self.set_event_loop(loop)
        return loop

    utils.TestCase.new_test_loop = new_test_loop


def put_into_uvloops_suite(ours: type[Loop]) -> None:
    """In the place of uvloop's: a third implementation, for which the suite makes no exceptions."""
    from uvloop import _testbase

    class OurTestCase(_testbase.BaseTestCase):
        implementation = "ours"

        def new_loop(self) -> asyncio.AbstractEventLoop:
            return ours()

        def new_policy(self) -> asyncio.AbstractEventLoopPolicy:
            return asyncio.DefaultEventLoopPolicy()

    _testbase.UVTestCase = OurTestCase

    class OurTlsProtocol(_tls.TlsProtocol):
        """By that name the tests get at it, to pause what it writes."""

        def _get_extra_info(self, name: str, default: Any = None) -> Any:
            return self if name == "uvloop.sslproto" else super()._get_extra_info(name, default)

    _tls.TlsProtocol = OurTlsProtocol  # type: ignore[misc]


def leave_out_other_loops(module: Any) -> None:
    """What is run for each kind of selector is run once, and what is run for asyncio beside uvloop not at all."""
    for name, kind in list(vars(module).items()):
        is_other = name in ("PollEventLoopTests", "EPollEventLoopTests", "KqueueEventLoopTests")
        if is_other or "AIOTestCase" in [base.__name__ for base in getattr(kind, "__mro__", ())]:
            delattr(module, name)


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
    wrong = result.errors + result.failures + [(t, "it was not to succeed") for t in result.unexpectedSuccesses]
    if wrong:
        return "failed", wrong[0][1]
    return ("skipped", result.skipped[0][1]) if result.skipped else ("ok", "")


if __name__ == "__main__":
    main()
