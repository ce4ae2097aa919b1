"""The helpers that native code calls."""

from __future__ import annotations

import asyncio

import pytest

from erlang import _runtime, reactor


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
    async def answer():
        raise LookupError("mine")

    text = _runtime.describe_exception(caught(asyncio.run, answer()))[1]
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
