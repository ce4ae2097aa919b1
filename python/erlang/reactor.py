"""Protocol classes, one instance per connection, driven by the reactor inside the Erlang VM.

    import erlang.reactor as reactor

    class Echo(reactor.Protocol):
        def data_received(self, data):
            self.write_buffer.extend(data)
            return "write_pending"

    reactor.set_protocol_factory(Echo)

Inside the VM, connections that Erlang hands over are served by native code and this module only
passes questions on. Any other descriptor, in the VM or in a plain interpreter, is served by hand,
which is how protocols are unit-tested:

    here, peer = socket.socketpair()
    here.setblocking(False)
    fd = here.fileno()
    reactor.init_connection(fd, {"addr": "127.0.0.1", "port": 1, "type": "tcp"})
    peer.send(b"hello")
    assert reactor.on_read_ready(fd) == "write_pending"
    assert reactor.on_write_ready(fd) == "read_pending"
    assert peer.recv(5) == b"hello"
    reactor.close_connection(fd)

Served by hand, exceptions reach the caller; the caller carries out each action that is returned
(on "close" it calls close_connection) and owns the descriptor, which is never closed here.
"""

from __future__ import annotations

import os
import reprlib
import select
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from erlang import _client_info
from erlang._native import native

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from _py_reactor import Interrupted, Protocol, ReactorBuffer
else:
    Protocol = native.Protocol
    ReactorBuffer = native.ReactorBuffer
    Interrupted = native.Interrupted

__all__ = [
    "Action",
    "Connection",
    "Interrupted",
    "Protocol",
    "ReactorBuffer",
    "close_connection",
    "connection_handle",
    "get_protocol",
    "init_connection",
    "notify",
    "on_message",
    "on_read_ready",
    "on_write_ready",
    "set_protocol_factory",
    "signal_write_ready",
]

Action = Literal["continue", "write_pending", "read_pending", "async_pending", "close"]
"""What a callback returns: what to do with the connection next."""

Connection = int | tuple[int, int, int]
"""A connection: the number of its descriptor, or its handle (:func:`connection_handle`)."""

_READ_BYTES = 65536

_ACTIONS = get_args(Action)
_LEGAL: dict[str, tuple[str, ...]] = {
    "data_received": _ACTIONS,
    "eof_received": _ACTIONS,
    "message_received": _ACTIONS,
    "write_ready": tuple(action for action in _ACTIONS if action != "async_pending"),
}

# Only what is served by hand; what the reactor serves is known to its context alone.
_factory: Callable[[], Protocol] | None = None
_connections: dict[int, Protocol] = {}


def set_protocol_factory(factory: Callable[[], Protocol]) -> None:
    """Set what makes the protocol of each new connection: a class, or any callable.

    Called with no arguments; must return a new :class:`Protocol`. On a context's thread
    (``py:exec``, ``setup_code``, any callback) it belongs to that context, elsewhere to
    connections served by hand. Replaces the previous one; existing connections keep theirs.

    Raises:
        TypeError: ``factory`` is not callable.
    """
    global _factory
    if not callable(factory):
        raise TypeError(f"a protocol factory must be callable, not {reprlib.repr(factory)}")
    if not native.set_protocol_factory(factory):
        _factory = factory


def get_protocol(fd: int) -> Protocol | None:
    """The protocol that serves ``fd`` in this context, or by hand; None when there is none."""
    proto = native.get_protocol(fd)
    return _connections.get(fd) if proto is None else proto


def signal_write_ready(fd: int) -> bool:
    """End the wait that ``"async_pending"`` began: the reactor calls ``write_ready`` next.

    May be called from any thread. Served by hand, nothing is called: the caller goes on with
    :func:`on_write_ready`.

    Returns:
        Whether ``fd`` is a connection that is being served.
    """
    return native.signal_write_ready(fd) or fd in _connections


def connection_handle(fd: int) -> tuple[int, int, int] | None:
    """What names the connection that serves ``fd`` now, and no later one with the same number.

    To be kept, compared, sent to Erlang and given to :func:`notify`; its parts mean nothing.

    Returns:
        The handle; None when no reactor serves ``fd``.
    """
    return native.connection_handle(fd)


def notify(connection: Connection, message: Any) -> bool:
    """Leave ``message`` for a protocol of this interpreter: its ``message_received`` gets it soon.

    May be called from any thread, in any callback. The object is passed on as it is, not copied.
    Served by hand, nothing is called: the caller goes on with :func:`on_message`.

    Returns:
        Whether there is such a connection. If it ends before the message is there, the message is
        dropped.

    Raises:
        BlockingIOError: 131072 messages wait for that context. This one was not taken.
        RuntimeError: the connection is served in another interpreter.
    """
    if native.notify(connection, message):
        return True
    return isinstance(connection, int) and connection in _connections


def init_connection(fd: int, client_info: Mapping[Any, Any]) -> Protocol:
    """Serve ``fd`` by hand: make a protocol and call its ``connection_made``.

    Args:
        fd: an open descriptor, preferably non-blocking; it stays the caller's.
        client_info: becomes a new dict with ``str`` keys; ``"addr"`` becomes ``str`` from
            bytes, a list of character codes or a tuple of 4 or 8 numbers.

    Returns:
        The protocol.

    Raises:
        ValueError: ``fd`` is negative.
        TypeError: ``client_info`` cannot be converted.
        RuntimeError: ``fd`` is already served, there is no factory, or what it made is not a
            Protocol or serves another descriptor.
        Whatever the factory or ``connection_made`` raises; then ``fd`` is not served.
    """
    if fd < 0:
        raise ValueError(f"fd must not be negative, got {fd}")
    if fd in _connections or native.is_served(fd):
        raise RuntimeError(f"fd {fd} is already being served; call close_connection({fd}) first")
    info = _client_info.convert(client_info)
    proto = _new_protocol()
    proto.fd = fd
    proto.client_info = info
    proto.closed = False
    _connections[fd] = proto
    try:
        proto.connection_made(fd, info)
    except BaseException:
        _connections.pop(fd, None)
        proto.closed = True
        raise
    return proto


def on_read_ready(fd: int, data: Buffer | None = None) -> Action:
    """Deliver input to the protocol that serves ``fd`` by hand.

    Args:
        fd: as given to :func:`init_connection`.
        data: the bytes to deliver; empty stands for the end of the input. None: read them from
            ``fd``, 65536 bytes at most.

    Returns:
        What ``data_received`` or, at the end of the input, ``eof_received`` returned; without
        a callback ``"continue"`` if there was nothing to read, ``"close"`` if reading failed.
        ``"close"`` too if the callback closed the connection.

    Raises:
        ValueError: the callback returned what is not an action, or not one it may return.
        RuntimeError: ``fd`` is not served by hand.
        Whatever the callback raises.
    """
    proto = _served_by_hand(fd)
    if data is None:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return "continue"
        except OSError:
            return "close"
    received = data if isinstance(data, ReactorBuffer) else ReactorBuffer(data)
    if received:
        return _action(fd, proto, "data_received", proto.data_received(received))
    return _action(fd, proto, "eof_received", proto.eof_received())


def on_write_ready(fd: int) -> Action:
    """Call ``write_ready`` of the protocol that serves ``fd`` by hand.

    Returns:
        What ``write_ready`` returned; ``"close"`` if it closed the connection, or if it waits for
        room although the peer is gone, so that no protocol writes to nobody for ever.

    Raises:
        As :func:`on_read_ready`.
    """
    proto = _served_by_hand(fd)
    action = _action(fd, proto, "write_ready", proto.write_ready())
    waits_for_room = action in ("continue", "write_pending")
    return "close" if waits_for_room and _peer_is_gone(fd) else action


def on_message(fd: int, message: Any) -> Action:
    """Call ``message_received`` of the protocol that serves ``fd`` by hand.

    Returns:
        What it returned; ``"close"`` if it closed the connection.

    Raises:
        As :func:`on_read_ready`.
    """
    proto = _served_by_hand(fd)
    return _action(fd, proto, "message_received", proto.message_received(message))


def close_connection(fd: int) -> None:
    """Close the connection that serves ``fd``; does nothing when there is none.

    Under the reactor, gracefully: what was written is delivered first. Served by hand: forgets
    ``fd`` without closing it, sets ``closed``, calls ``connection_lost`` and lets pass what it
    raises.
    """
    if native.close_connection(fd):
        return
    proto = _connections.pop(fd, None)
    if proto is not None:
        proto.closed = True
        proto.connection_lost()


def _new_protocol() -> Protocol:
    factory = native.get_protocol_factory()
    if factory is None:
        factory = _factory
    if factory is None:
        raise RuntimeError("no protocol factory: call erlang.reactor.set_protocol_factory() first")
    proto = factory()
    if not isinstance(proto, Protocol):
        raise RuntimeError(
            f"the protocol factory {reprlib.repr(factory)} returned {reprlib.repr(proto)}, "
            "not an instance of erlang.reactor.Protocol"
        )
    if get_protocol(proto.fd) is proto:
        raise RuntimeError(
            f"the protocol factory {reprlib.repr(factory)} returned the instance that serves "
            f"fd {proto.fd}; it must make a new one for each connection"
        )
    return proto


def _served_by_hand(fd: int) -> Protocol:
    proto = _connections.get(fd)
    if proto is not None:
        return proto
    if native.is_served(fd):
        raise RuntimeError(f"fd {fd} is served by the reactor, which calls its protocol itself")
    raise RuntimeError(f"fd {fd} is not being served; call init_connection({fd}, info) first")


def _action(fd: int, proto: Protocol, method: str, value: object) -> Action:
    legal = _LEGAL[method]
    if not isinstance(value, str) or value not in legal:
        hint = " (is a return statement missing?)" if value is None else ""
        raise ValueError(
            f"{type(proto).__module__}.{type(proto).__qualname__}.{method}() returned "
            f"{reprlib.repr(value)}{hint}; it must return one of {', '.join(legal)}"
        )
    if _connections.get(fd) is not proto:
        return "close"
    return cast(Action, value)


def _peer_is_gone(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(0))
