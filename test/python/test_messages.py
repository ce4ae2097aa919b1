"""erlang.send and erlang.self in a plain interpreter."""

from __future__ import annotations

import pytest

import erlang


def test_sending_needs_the_vm():
    with pytest.raises(RuntimeError, match=r"erlang\.send\(\) works inside the Erlang VM only"):
        erlang.send("logger", 1)


def test_self_needs_the_vm():
    with pytest.raises(RuntimeError, match=r"erlang\.self\(\) works inside the Erlang VM only"):
        erlang.self()


def test_public_names():
    for name in erlang.__all__:
        assert hasattr(erlang, name)
    assert repr(erlang.Pid(b"", "<0.1.0>")) == "<erlang.Pid <0.1.0>>"
