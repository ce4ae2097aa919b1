"""The samples of the reference, each as it stands there, in a file of its own."""

from __future__ import annotations

import asyncio
import runpy
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from erlang import reactor

SAMPLES = Path(__file__).parent / "samples"


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SAMPLES / f"{name}.py"))


def test_echo(connect, capsys):
    load("echo_protocol")
    conn = connect()
    assert capsys.readouterr().out == "Connection from 127.0.0.1:4711\n"
    for message in (b"hello", b"\0\xff" * 100):
        assert conn.read(message) == "write_pending"
        assert conn.write() == "read_pending"
        assert conn.received() == message
    assert conn.write() == "read_pending"
    conn.peer.close()
    assert conn.read() == "close"
    reactor.close_connection(conn.fd)
    assert capsys.readouterr().out == f"Connection closed: fd={conn.fd}\n"


def test_http_request_in_two_pieces(connect):
    load("simple_http_protocol")
    conn = connect()
    assert conn.read(b"GET /x HTTP/1.0\r\nHost: a\r\n") == "continue"
    assert conn.read(b"\r\n") == "write_pending"
    assert conn.write() == "close"
    assert conn.received() == (
        b"HTTP/1.0 200 OK\r\nContent-Length: 23\r\nContent-Type: text/plain\r\n\r\n"
        b"Hello! You requested /x"
    )


def test_data_received_alone_is_a_protocol(connect):
    load("my_protocol")
    conn = connect()
    assert conn.read(b"this") == "write_pending"
    assert conn.write() == "read_pending"
    assert conn.received() == b"Got: this"


def test_base_protocol_without_super(connect):
    base = load("base_protocol")["Protocol"]
    cleaned = []

    class Line(base):
        def request_complete(self):
            return self.request_buffer.endswith(b"\n")

        def prepare_response(self):
            self.write_buffer.extend(self.request_buffer.upper())

        def cleanup(self):
            cleaned.append((self.fd, self.client_info["addr"], self.closed))

    conn = connect(Line)
    assert conn.read(b"a li") == "continue"
    assert conn.read(b"ne\n") == "write_pending"
    assert conn.write() == "read_pending"
    assert conn.received() == b"A LINE\n"
    reactor.close_connection(conn.fd)
    assert cleaned == [(conn.fd, "127.0.0.1", True)]


def test_buffer_operations(connect):
    load("buffer_operations")
    conn = connect()
    request = b"GET / HTTP/1.1\r\n\r\n"
    assert conn.read(request) == "continue"
    seen = conn.proto.seen
    assert seen["first_byte"] == ord("G")
    assert seen["header"] == b"GET "
    assert seen["last_byte"] == ord("\n")
    assert seen["method"] == "GET"
    assert (seen["pos"], seen["count"], seen["size"]) == (14, 2, 18)
    assert seen["text"] == request.decode()
    assert type(seen["data_copy"]) is bytes
    assert seen["data_copy"] == request == conn.proto.request_buffer
    assert conn.proto.http == 1
    assert conn.read(b"PING") == "continue"
    assert conn.proto.write_buffer == b"PONG"


@pytest.mark.parametrize("sync", [False, True])
def test_asyncio_on_a_thread_that_is_not_the_main_one(sync):
    sample = load("asyncio_handler")
    here, peer = socket.socketpair()
    with peer:
        peer.send(b"hi")
        fd = here.detach()
        if sync:
            target, argument = sample["handle_connection_sync"], fd
        else:
            target, argument = asyncio.run, sample["handle_connection"](fd)
        thread = threading.Thread(target=target, args=(argument,))
        thread.start()
        thread.join()
        assert peer.recv(100) == b"Echo: hi"
        assert peer.recv(100) == b""
