"""Connections that are served by hand, as in a unit test: by number, and by a name that no later one has."""

from __future__ import annotations

import contextvars
import types
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from erlang._describe import advice, describe

if TYPE_CHECKING:
    import asyncio

    from _py_reactor import Protocol

Handle = tuple[int, int, int]
Connection = int | Handle

# As many as may wait for a context of the reactor (MESSAGES_MAX).
MESSAGES_MAX = 131072

_Result = TypeVar("_Result")


class Served:
    """One connection."""

    def __init__(
        self, proto: Protocol, handle: Handle, variables: contextvars.Context, end: Callable[[Protocol], None]
    ) -> None:
        self.proto = proto
        self.handle = handle
        self.messages: deque[Any] = deque()
        # The end of a wait has been signalled.
        self.signalled = False
        # Those of `async def` callbacks, oldest first, until their action is fetched; and all that run.
        self.answers: deque[asyncio.Task[Any]] = deque()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.timers: set[asyncio.TimerHandle] = set()
        self._variables = variables
        # What its descriptor has besides is given back.
        self.end = end
        self._inside = False

    def run(self, function: Callable[..., _Result], *args: Any) -> _Result:
        """Call in the connection's own context variables: from within a callback, that is where we are already."""
        if self._inside or self._in_task():
            return function(*args)
        self._inside = True
        try:
            return self._variables.run(function, *args)
        finally:
            self._inside = False

    def tell(self, method: str, *args: Any) -> None:
        """Call a callback that answers nothing.

        Raises:
            ValueError: it is ``async def``, and so would never run.
            Whatever it raises.
        """
        answer: object = self.run(getattr(self.proto, method), *args)
        if isinstance(answer, types.CoroutineType):
            cls = type(self.proto)
            raise ValueError(
                f"{cls.__module__}.{cls.__qualname__}.{method}() returned {describe(answer)}{advice(answer, ())}"
            )


    def _in_task(self) -> bool:
        import asyncio

        return bool(self.tasks) and asyncio._get_running_loop() is not None and asyncio.current_task() in self.tasks

    def begin(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task in the connection's own variables, on the loop that runs."""
        import asyncio

        task = asyncio.Task(coro, loop=asyncio.get_running_loop(), context=self._variables)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def later(self, delay: float, callback: Callable[..., object], args: tuple[Any, ...]) -> asyncio.TimerHandle:
        """Have a callback called, unless the connection ends before."""
        import asyncio

        def due() -> None:
            self.timers.discard(handle)
            callback(*args)

        handle = asyncio.get_running_loop().call_later(delay, due, context=self._variables)
        self.timers.add(handle)
        return handle

    def end_tasks(self) -> None:
        """Cancel what runs, but for the task that asks for it."""
        if not self.tasks and not self.timers:
            return
        import asyncio

        current = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        for timer in self.timers:
            timer.cancel()
        if self.proto.cancel_on_disconnect:
            for task in self.tasks - {current}:
                task.cancel()


connections: dict[int, Served] = {}


def create_task(connection: Connection | None, coro: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
    """As :meth:`Protocol.create_task`."""
    served = find(connection)
    if served is None:
        coro.close()
        raise RuntimeError("create_task(): the connection has ended, or has not begun")
    return served.begin(coro)


def call_later(
    connection: Connection | None, delay: float, callback: Callable[..., object], args: tuple[Any, ...]
) -> asyncio.TimerHandle:
    """As :meth:`Protocol.call_later`."""
    served = find(connection)
    if served is None:
        raise RuntimeError("call_later(): the connection has ended, or has not begun")
    return served.later(delay, callback, args)


def find(connection: Connection | None) -> Served | None:
    """The connection that a number or a handle means, if it is there; None means none."""
    match connection:
        case int():
            return connections.get(connection)
        case (int() as fd, int(), int()):
            served = connections.get(fd)
            return served if served is not None and served.handle == connection else None
        case None:
            return None
    raise TypeError(
        "a connection is named by the number of its descriptor or by its handle, a tuple of three numbers, "
        f"not by {describe(connection)}"
    )


def is_served(connection: Connection | None) -> bool:
    """Whether it is there."""
    return find(connection) is not None


def signal(connection: Connection | None) -> bool:
    """End the wait of a protocol; False: there is no such connection."""
    served = find(connection)
    if served is not None:
        served.signalled = True
    return served is not None


def notify(connection: Connection | None, message: Any) -> bool:
    """Leave a message for ``on_message``; False: there is no such connection."""
    served = find(connection)
    if served is None:
        return False
    if len(served.messages) >= MESSAGES_MAX:
        raise BlockingIOError("too many messages wait for this protocol: deliver them with on_message()")
    served.messages.append(message)
    return True


def close(connection: Connection | None) -> None:
    """Forget a connection, and tell its protocol."""
    served = find(connection)
    # Two threads may close it: one of them does.
    if served is None or connections.pop(served.handle[0], None) is not served:
        return
    served.proto.closed = True
    served.proto.close_reason = "peer_closed" if served.proto.peer_closed else "closed"
    served.end_tasks()
    try:
        served.tell("connection_lost")
    finally:
        served.end(served.proto)
