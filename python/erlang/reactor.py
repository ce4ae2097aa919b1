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

import contextvars
import os
import select
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from erlang import _by_hand, _client_info
from erlang._describe import advice, describe
from erlang._native import native
from erlang._tasks import on_start, on_stop, spawn
from erlang._vocabulary import Action

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
    "awaited",
    "close_connection",
    "connection_handle",
    "get_protocol",
    "init_connection",
    "notify",
    "on_message",
    "on_read_ready",
    "on_start",
    "on_stop",
    "on_write_ready",
    "set_protocol_factory",
    "signal_write_ready",
    "spawn",
]

Connection = int | tuple[int, int, int]
"""A connection: the number of its descriptor, or its handle (``Protocol.handle``, :func:`connection_handle`)."""

_READ_BYTES = 65536

_ACTIONS = get_args(Action)

# Only what is served by hand; what the reactor serves is known to its context alone.
_factory: Callable[[], Protocol] | None = None


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
        raise TypeError(f"a protocol factory must be callable, not {describe(factory)}")
    if not native.set_protocol_factory(factory):
        _factory = factory


def get_protocol(connection: Connection) -> Protocol | None:
    """The protocol that serves ``connection`` in this interpreter, or by hand; None when there is none.

    May be called from any thread.

    Raises:
        RuntimeError: the connection is served in another interpreter.
    """
    proto = native.get_protocol(connection)
    if proto is not None:
        return proto
    served = _by_hand.find(connection)
    return None if served is None else served.proto


def signal_write_ready(connection: Connection) -> bool:
    """End the wait that ``"async_pending"`` began: the reactor calls ``write_ready`` next.

    So it does in read mode, if something stands in ``write_buffer``; else a signal has no effect there. May be called from any thread. A number may be another connection's by then: a protocol calls
    its own :meth:`Protocol.signal_write_ready`. Served by hand, nothing is called: the caller goes
    on with :func:`on_write_ready`.

    Returns:
        Whether ``connection`` is being served.
    """
    return native.signal_write_ready(connection) or _by_hand.signal(connection)


def connection_handle(connection: Connection) -> tuple[int, int, int] | None:
    """What names the connection that has this number now, and no later one; the protocol's ``handle``.

    To be kept, compared, sent to Erlang, and given to any function here in place of a number; its
    parts mean nothing.

    Returns:
        The handle; None when there is no such connection.
    """
    handle = native.connection_handle(connection)
    if handle is not None:
        return handle
    served = _by_hand.find(connection)
    return None if served is None else served.handle


def notify(connection: Connection, message: Any) -> bool:
    """Leave ``message`` for a protocol of this interpreter: its ``message_received`` gets it soon.

    May be called from any thread, in any callback. The object is passed on as it is, not copied.
    Served by hand, nothing is called: the message waits for :func:`on_message`.

    Returns:
        Whether there is such a connection. If it ends before the message is there, the message is
        dropped.

    Raises:
        BlockingIOError: 131072 messages wait for that context. This one was not taken.
        RuntimeError: the connection is served in another interpreter.
    """
    return native.notify(connection, message) or _by_hand.notify(connection, message)


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
    return _serve(fd, client_info)


def _serve(
    fd: int, client_info: Mapping[Any, Any], factory: Callable[[], Protocol] | None = None
) -> Protocol:
    if fd < 0:
        raise ValueError(f"fd must not be negative, got {fd}")
    if fd in _by_hand.connections or native.is_served(fd):
        raise RuntimeError(f"fd {fd} is already being served; call close_connection({fd}) first")
    info = _client_info.convert(client_info)
    variables = contextvars.copy_context()
    proto = variables.run(_new_protocol, factory)
    served = _by_hand.Served(proto, native.drive_by_hand(proto, fd, info), variables, native.end_by_hand)
    _by_hand.connections[fd] = served
    try:
        served.tell("connection_made", fd, info)
    except BaseException:
        _by_hand.connections.pop(fd, None)
        proto.closed = True
        proto.close_reason = "exception"
        raise
    return proto


def on_read_ready(connection: Connection, data: Buffer | None = None) -> Action:
    """Deliver input to the protocol that serves ``connection`` by hand.

    Args:
        connection: the descriptor that was given to :func:`init_connection`, or its handle.
        data: the bytes to deliver; empty stands for the end of the input. None: read them from
            its descriptor, 65536 bytes at most.

    Returns:
        What ``data_received`` or, at the end of the input, ``eof_received`` returned; without
        a callback ``"continue"`` if there was nothing to read, ``"close"`` if reading failed.
        ``"close"`` too if the callback closed the connection.

    Raises:
        ValueError: the callback returned what is not an action, or not one it may return.
        RuntimeError: ``connection`` is not served by hand.
        Whatever the callback raises.
    """
    served = _served_by_hand(connection)
    if data is None:
        try:
            data = os.read(served.handle[0], _READ_BYTES)
        except BlockingIOError:
            return "continue"
        except OSError:
            return "close"
    received = data if isinstance(data, ReactorBuffer) else ReactorBuffer(data)
    if received:
        return _action(served, "data_received", received)
    served.proto.peer_closed = True
    return _action(served, "eof_received")


def on_write_ready(connection: Connection) -> Action:
    """Call ``write_ready`` of the protocol that serves ``connection`` by hand.

    Returns:
        What ``write_ready`` returned; ``"close"`` if it closed the connection, or if it waits for
        room although the peer is gone, so that no protocol writes to nobody for ever.

    Raises:
        As :func:`on_read_ready`.
    """
    served = _served_by_hand(connection)
    action = _action(served, "write_ready")
    waits_for_room = action in ("continue", "write_pending")
    return "close" if waits_for_room and _peer_is_gone(served.handle[0]) else action


def on_message(connection: Connection, *message: Any) -> Action:
    """Call ``message_received`` of the protocol that serves ``connection`` by hand.

    Args:
        connection: as for :func:`on_read_ready`.
        message: what to deliver. Without it, the oldest that :func:`notify` has left.

    Returns:
        What it returned; ``"close"`` if it closed the connection, ``"continue"`` if no message waits.

    Raises:
        As :func:`on_read_ready`.
    """
    served = _served_by_hand(connection)
    if not message:
        if not served.messages:
            return "continue"
        message = (served.messages.popleft(),)
    return _action(served, "message_received", *message)


async def awaited(connection: Connection) -> Action:
    """The action that an ``async def`` callback of a connection that is served by hand returns.

    Under a running event loop :func:`on_read_ready` and its like begin a task for such a callback and
    return ``"async_pending"``; this waits for the oldest whose action nobody has asked for.

    Returns:
        What it returned; ``"close"`` if the connection was closed meanwhile.

    Raises:
        As :func:`on_read_ready`; RuntimeError, too, if there is no such task.
    """
    served = _served_by_hand(connection)
    if not served.answers:
        raise RuntimeError("no `async def` callback of this connection has been called")
    task = served.answers.popleft()
    return _checked(served, getattr(task.get_coro(), "__name__", "callback"), await task)


def close_connection(connection: Connection) -> None:
    """Close ``connection``; does nothing when there is none. May be called from any thread.

    Under the reactor, gracefully: what was written is delivered first. Served by hand: forgets the
    descriptor without closing it, sets ``closed``, calls ``connection_lost`` and lets pass what it
    raises.
    """
    if not native.close_connection(connection):
        _by_hand.close(connection)


def _new_protocol(factory: Callable[[], Protocol] | None) -> Protocol:
    if factory is None:
        factory = native.get_protocol_factory()
    if factory is None:
        factory = _factory
    if factory is None:
        raise RuntimeError("no protocol factory: call erlang.reactor.set_protocol_factory() first")
    proto = factory()
    if not isinstance(proto, Protocol):
        raise RuntimeError(
            f"the protocol factory {describe(factory)} returned {describe(proto)}, "
            "not an instance of erlang.reactor.Protocol"
        )
    if get_protocol(proto.fd) is proto:
        raise RuntimeError(
            f"the protocol factory {describe(factory)} returned the instance that serves "
            f"fd {proto.fd}; it must make a new one for each connection"
        )
    return proto


def _served_by_hand(connection: Connection) -> _by_hand.Served:
    served = _by_hand.find(connection)
    if served is not None:
        return served
    what = f"connection {connection}" if isinstance(connection, tuple) else f"fd {connection}"
    if native.is_served(connection):
        raise RuntimeError(f"{what} is served by the reactor, which calls its protocol itself")
    raise RuntimeError(f"{what} is not being served; call init_connection(fd, info) first")


def _action(served: _by_hand.Served, method: str, *args: Any) -> Action:
    proto = served.proto
    value = served.run(getattr(proto, method), *args)
    if isinstance(value, Coroutine) and _loop_runs():
        served.answers.append(served.begin(value))
        return "async_pending"
    return _checked(served, method, value)


def _loop_runs() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _checked(served: _by_hand.Served, method: str, value: Any) -> Action:
    proto = served.proto
    if not isinstance(value, str) or value not in _ACTIONS:
        raise ValueError(
            f"{type(proto).__module__}.{type(proto).__qualname__}.{method}() returned "
            f"{describe(value)}{advice(value, _ACTIONS)}; it must return one of {', '.join(_ACTIONS)}"
        )
    return cast(Action, value) if _by_hand.find(served.handle) is served else "close"


def _peer_is_gone(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(0))
