"""The fixture that pytest finds where this package is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erlang.testing import Peer, connect


@pytest.fixture
def connect_to() -> Iterator[Callable[..., Peer]]:
    """``erlang.testing.connect``: what it has connected is closed after the test."""
    with contextlib.ExitStack() as stack:

        def connected(*args: Any, **kwargs: Any) -> Peer:
            return stack.enter_context(connect(*args, **kwargs))

        yield connected
