"""erlang.send and erlang.self in a plain interpreter."""

from __future__ import annotations

import pytest

import erlang
from erlang import _by_hand, reactor


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


class Mailed(reactor.Protocol):
    def message_received(self, message):
        self.write(message)
        return "write_pending"


class Wrong(reactor.Protocol):
    def message_received(self, message):
        return None


class Deaf(reactor.Protocol):
    pass


def test_a_message_by_hand(connect):
    connection = connect(Mailed)
    assert reactor.on_message(connection.proto.fd, b"hello") == "write_pending"
    assert connection.peer.recv(10) == b"hello"


def test_an_illegal_answer_to_a_message(connect):
    fd = connect(Wrong).proto.fd
    with pytest.raises(ValueError, match=r"Wrong.message_received\(\) returned None"):
        reactor.on_message(fd, 1)


def test_without_message_received_once_for_each_class(connect, caplog):
    fd = connect(Deaf).proto.fd
    for _ in range(3):
        assert reactor.on_message(fd, 1) == "continue"
    assert len(caplog.records) == 1
    assert "Deaf does not define message_received" in caplog.text


def test_notify_by_hand_leaves_the_message(connect):
    conn = connect(Mailed)
    assert reactor.notify(conn.fd, b"one") is True
    assert reactor.notify(conn.proto.handle, b"two") is True
    assert conn.proto.notify(b"three") is True
    assert conn.received() == b""
    assert [reactor.on_message(conn.fd) for _ in range(4)] == ["write_pending"] * 3 + ["continue"]
    assert conn.received() == b"onetwothree"


def test_notify_nobody(connect):
    fd = connect(Mailed).fd
    assert reactor.notify(fd + 1000, 1) is False
    assert reactor.notify((fd, 1, 1), 1) is False


def test_messages_by_hand_are_bounded(connect, monkeypatch):
    conn = connect(Mailed)
    monkeypatch.setattr(_by_hand, "MESSAGES_MAX", 2)
    assert [conn.proto.notify(b"x") for _ in range(2)] == [True, True]
    with pytest.raises(BlockingIOError):
        conn.proto.notify(b"x")


def test_call_needs_the_vm():
    with pytest.raises(RuntimeError, match="inside the Erlang VM only"):
        erlang.call("echo", 1)
