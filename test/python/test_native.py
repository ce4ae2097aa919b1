"""What erlang.reactor asks of the native module when there is one: here a stand-in."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest

from erlang import _plain, reactor

PLAIN_FD, NATIVE_FD, FOREIGN_FD = 12345, 100, 101


@pytest.fixture
def native(monkeypatch):
    """On the thread of a context which serves NATIVE_FD; another context serves FOREIGN_FD."""
    native = types.ModuleType("_py_reactor")
    native.Protocol = type("Protocol", (_plain.Protocol,), {})
    native.ReactorBuffer = _plain.ReactorBuffer
    native.Interrupted = _plain.Interrupted
    native.context, native.factory, native.calls = True, None, []
    native.proto = native.Protocol()

    def set_protocol_factory(factory):
        if native.context:
            native.factory = factory
        return native.context

    def closes(fd):
        native.calls.append(("close", fd))
        return fd == NATIVE_FD

    native.set_protocol_factory = set_protocol_factory
    native.get_protocol_factory = lambda: native.factory if native.context else None
    native.get_protocol = lambda fd: native.proto if fd == NATIVE_FD else None
    native.signal_write_ready = lambda fd: fd in (NATIVE_FD, FOREIGN_FD)
    native.close_connection = closes
    native.notify = lambda connection, message: connection in (NATIVE_FD, FOREIGN_FD)
    native.connection_handle = lambda fd: (fd, 1, 2) if fd in (NATIVE_FD, FOREIGN_FD) else None
    native.drive_by_hand = _plain.drive_by_hand
    native.end_by_hand = _plain.end_by_hand
    native.is_served = lambda fd: fd in (NATIVE_FD, FOREIGN_FD)
    monkeypatch.setitem(sys.modules, "_py_reactor", native)
    monkeypatch.delitem(sys.modules, "erlang._native")
    return native


@pytest.fixture
def inside(native):
    """erlang.reactor as it is when imported inside the VM."""
    spec = importlib.util.spec_from_file_location("reactor_inside", reactor.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_types_are_the_native_ones(native, inside):
    assert inside.Protocol is native.Protocol
    assert inside.ReactorBuffer is native.ReactorBuffer
    assert inside.Interrupted is native.Interrupted
    assert reactor.Protocol is _plain.Protocol


def test_a_native_module_that_breaks_is_not_hidden(monkeypatch, tmp_path):
    (tmp_path / "_py_reactor.py").write_text("raise ImportError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "erlang._native")
    spec = importlib.util.spec_from_file_location("reactor_broken", reactor.__file__)
    module = importlib.util.module_from_spec(spec)
    with pytest.raises(ImportError, match="broken"):
        spec.loader.exec_module(module)


def test_a_native_protocol_that_is_false_is_still_a_protocol(native, inside):
    native.proto = type("Falsy", (native.Protocol,), {"__len__": lambda self: 0})()
    assert inside.get_protocol(NATIVE_FD) is native.proto


def test_the_factory_belongs_to_the_context(native, inside):
    inside.set_protocol_factory(native.Protocol)
    assert native.factory is native.Protocol
    native.context = False
    with pytest.raises(RuntimeError, match="no protocol factory"):
        inside.init_connection(PLAIN_FD, {})


def test_the_context_factory_makes_protocols_served_by_hand(native, inside):
    inside.set_protocol_factory(native.Protocol)
    proto = inside.init_connection(PLAIN_FD, {})
    assert type(proto) is native.Protocol
    assert inside.get_protocol(PLAIN_FD) is proto


def test_a_thread_without_a_context_has_a_factory_of_its_own(native, inside):
    native.context = False
    inside.set_protocol_factory(native.Protocol)
    assert native.factory is None
    assert type(inside.init_connection(PLAIN_FD, {})) is native.Protocol


def test_connections_of_the_context(native, inside):
    assert inside.get_protocol(NATIVE_FD) is native.proto
    assert inside.get_protocol(FOREIGN_FD) is None
    assert inside.signal_write_ready(NATIVE_FD) is True
    assert inside.signal_write_ready(FOREIGN_FD) is True
    assert inside.signal_write_ready(PLAIN_FD) is False
    inside.close_connection(NATIVE_FD)
    assert native.calls == [("close", NATIVE_FD)]
    assert not native.proto.closed, "closing is the reactor's"


def test_messages_to_connections_of_the_reactor(native, inside):
    assert inside.notify(FOREIGN_FD, object()) is True
    assert inside.notify(PLAIN_FD, object()) is False
    assert inside.connection_handle(NATIVE_FD) == (NATIVE_FD, 1, 2)
    assert inside.connection_handle(PLAIN_FD) is None
    with pytest.raises(RuntimeError, match="served by the reactor"):
        inside.on_message(NATIVE_FD, 1)


@pytest.mark.parametrize("fd", [NATIVE_FD, FOREIGN_FD])
def test_what_the_reactor_serves_is_not_served_by_hand(native, inside, fd):
    inside.set_protocol_factory(native.Protocol)
    with pytest.raises(RuntimeError, match="served by the reactor"):
        inside.on_read_ready(fd, b"x")
    with pytest.raises(RuntimeError, match="served by the reactor"):
        inside.on_write_ready(fd)
    with pytest.raises(RuntimeError, match="already being served"):
        inside.init_connection(fd, {})


def test_the_factory_must_not_return_what_the_reactor_serves(native, inside):
    native.proto.fd = NATIVE_FD
    inside.set_protocol_factory(lambda: native.proto)
    with pytest.raises(RuntimeError, match=f"serves fd {NATIVE_FD}"):
        inside.init_connection(PLAIN_FD, {})


def test_public_names():
    for name in reactor.__all__:
        assert hasattr(reactor, name)


def test_the_plain_module_offers_what_the_stub_promises(native):
    offered = {name for name in vars(native) if not name.startswith("_")}
    assert offered - {"context", "factory", "calls", "proto"} <= set(vars(_plain))
