"""The example servers of `make run`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from erlang.testing import connect

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from demo_servers import Echo, Http  # noqa: E402

BODY = b"Hello! You requested /some\n"


def test_get_and_head_on_one_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 27\r\nConnection: keep-alive\r\n\r\n"
    with connect(Http) as peer:
        peer.send(b"GET /some HTTP/1.1\r\nHost: x\r\n\r\nHEAD /some HTTP/1.1\r\nHost: x\r\n\r\nGE")
        assert peer.receive() == head + BODY + head  # and nothing of a body after HEAD
        peer.send(b"T /some HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert peer.receive() == head.replace(b"keep-alive", b"close") + BODY
        assert peer.closed


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405 Method Not Allowed"),
        (b"HEAD / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405 Method Not Allowed"),
        (b"hello\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n" + b"x" * 20000, b"431 Request Header Fields Too Large"),
    ],
)
def test_what_is_refused_ends_the_connection(request_head: bytes, status: bytes) -> None:
    with connect(Http) as peer:
        peer.send(request_head)
        assert peer.receive().startswith(b"HTTP/1.1 " + status + b"\r\n")
        assert peer.closed


def test_echo() -> None:
    with connect(Echo) as peer:
        peer.send(b"hello")
        assert peer.receive() == b"hello"
