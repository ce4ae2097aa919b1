"""The helpers that native code calls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import threading

import pytest

from erlang import _runtime, reactor


async def answer(value):
    await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value


def on_a_thread(call):
    results = []

    def body():
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return results[0]


def test_run():
    assert _runtime.run(answer(5)) == 5
    assert _runtime.run(answer(6)) == 6


def test_run_raises():
    with pytest.raises(LookupError, match="mine"):
        _runtime.run(answer(LookupError("mine")))


def test_run_on_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    assert on_a_thread(lambda: _runtime.run(answer(5))) == 5
    error = on_a_thread(lambda: _runtime.run(answer(LookupError("mine"))))
    assert type(error) is LookupError
    assert signal.getsignal(signal.SIGINT) is before


def test_run_ends_what_the_coroutine_started():
    ended = []

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def starts():
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        return task

    assert _runtime.run(starts()).cancelled()
    assert ended == [True]


def caught(call, *args):
    """What the call raises, without this frame: as native code gets it."""
    try:
        call(*args)
    except Exception as error:
        return error.with_traceback(error.__traceback__.tb_next)
    pytest.fail("nothing was raised")


def test_format_exception():
    def user_code():
        raise LookupError("mine")

    text = _runtime.describe_exception(caught(user_code))[1]
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in user_code" in text
    assert text.endswith("LookupError: mine\n")


def test_format_exception_leaves_our_frames_out():
    text = _runtime.describe_exception(caught(_runtime.run, answer(LookupError("mine"))))[1]
    assert "in answer" in text
    assert "in run" not in text
    assert text.count('File "') == 1


def test_format_exception_with_our_frames_only():
    text = _runtime.describe_exception(caught(reactor.set_protocol_factory, None))[1]
    assert "in set_protocol_factory" in text
    assert "must be callable" in text


def test_format_exception_without_traceback():
    assert _runtime.describe_exception(ValueError("x"))[1] == "ValueError: x\n"


def test_format_exception_with_a_cause():
    def user_code():
        try:
            raise LookupError("first")
        except LookupError as error:
            raise ValueError("second") from error

    text = _runtime.describe_exception(caught(user_code))[1]
    assert "LookupError: first" in text
    assert "direct cause" in text


def test_format_exception_is_bounded():
    text = _runtime.describe_exception(ValueError("a" * 1_000_000 + "the end"))[1]
    assert len(text) < _runtime.TRACEBACK_LIMIT_CHARS + 100
    assert text.startswith("ValueError: aaa")
    assert text.endswith("the end\n")
    assert "characters left out" in text


def test_format_exception_of_deep_recursion():
    def recurse():
        recurse()

    text = _runtime.describe_exception(caught(recurse))[1]
    assert "RecursionError" in text
    assert len(text) < _runtime.TRACEBACK_LIMIT_CHARS


def test_format_exception_is_encodable():
    text = _runtime.describe_exception(ValueError("\ud800"))[1]
    assert text == "ValueError: \\ud800\n"
    text.encode()


def test_format_exception_of_an_exception_that_cannot_be_shown():
    class Bad(Exception):
        def __str__(self):
            raise ZeroDivisionError

    assert "Bad" in _runtime.describe_exception(Bad())[1]


def test_a_loop_that_has_lost_a_step_ends(monkeypatch):
    """An interrupt may come between the loop's taking a step and making it: nobody makes that step again."""
    run_handle = asyncio.events.Handle._run
    runs = itertools.count()

    def interrupted(handle):
        if next(runs) == 5:
            raise KeyboardInterrupt
        run_handle(handle)

    async def spin():
        while True:
            await asyncio.sleep(0)

    def serve():
        with contextlib.suppress(KeyboardInterrupt):
            _runtime.run(spin())

    monkeypatch.setattr(asyncio.events.Handle, "_run", interrupted)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
