"""Event loops over the reactor: native where something is done for each callback, inherited from asyncio everywhere else.

Imports asyncio: nobody may import this who does not use it.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, NoReturn

from erlang._datagrams import DatagramTransport
from erlang import _handles as _handles  # native code finds it where it may not import
from erlang import _tls
from erlang._native import native
from erlang._openings import Openings
from erlang._transports import SocketTransport as _Transport, TransportsOfLoop

if TYPE_CHECKING:
    from _py_reactor import Loop as _Native
else:
    _Native = native.loop_type()


class _Selector:
    """Answers those who look into a loop's selector, which is native: asyncio's transports do, to say what they wait for."""

    def __init__(self, loop: _Native) -> None:
        self._loop = loop

    def get_key(self, fd: int) -> selectors.SelectorKey:
        events = self._loop._waiting_for(fd)
        if not events:
            raise KeyError(f"{fd!r} is not registered")
        return selectors.SelectorKey(fd, fd, events, None)

    def close(self) -> None:
        pass


class Loop(Openings, _Native, asyncio.SelectorEventLoop):
    """A loop of one's own, which runs while ``run_forever`` or ``run_until_complete`` does.

    The pair of sockets that asyncio's signal handlers need is made when it is first used.
    """

    def __init__(self, backend: str = "auto") -> None:
        self._backend = backend
        self._pipe: tuple[socket.socket, socket.socket] | None = None
        self._openings_init()
        self._join()
        super().__init__(_Selector(self))  # type: ignore[arg-type]

    def _join(self) -> None:
        self._be_own()

    @property
    def _selector(self) -> _Selector | None:
        return None if self.is_closed() else _Selector(self)

    @_selector.setter
    def _selector(self, selector: Any) -> None:
        pass

    # The pair of sockets, to which signals are written.

    def _make_self_pipe(self) -> None:
        pass

    def _close_self_pipe(self) -> None:
        if self._pipe is not None:
            self._remove_reader(self._pipe[0].fileno())
            for end in self._pipe:
                end.close()
            self._pipe = None

    @property
    def _ssock(self) -> socket.socket | None:
        return None if self._pipe is None else self._pipe[0]

    @property
    def _csock(self) -> socket.socket | None:
        if self._pipe is None and not self.is_closed():
            self._pipe = socket.socketpair()
            for end in self._pipe:
                end.setblocking(False)
            self._add_reader(self._pipe[0].fileno(), self._read_from_self)  # type: ignore[attr-defined]
        return None if self._pipe is None else self._pipe[1]

    # Transports.

    @property
    def _transports(self) -> TransportsOfLoop:
        return TransportsOfLoop(self, self._other_transports)

    @_transports.setter
    def _transports(self, others: Any) -> None:
        self._other_transports = others

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: Any = None,
        server: Any = None,
        context: Context | None = None,
    ) -> Any:
        if isinstance(sock, socket.socket) and sock.type == socket.SOCK_STREAM:
            return _Transport(self, sock, protocol, waiter, extra, server, context)
        # Of another kind, or a stand-in for one.
        make: Any = super()._make_socket_transport  # type: ignore[misc]
        # asyncio's own have one since 3.15.
        of = {} if context is None else {"context": context}
        return make(sock, protocol, waiter, extra=extra, server=server, **of)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        context: Context | None = None,
        **timeouts: float | None,
    ) -> Any:
        ssl_protocol = _tls.TlsProtocol(self, protocol, sslcontext, waiter, server_side, server_hostname, **timeouts)
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server, context=context)
        return ssl_protocol._app_transport

    async def start_tls(  # type: ignore[override]
        self,
        transport: asyncio.Transport,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        **timeouts: float | None,
    ) -> asyncio.Transport | None:
        """Go on with TLS; answer the transport to use from now on."""
        tls: asyncio.Transport | None = await _tls.start(
            self, transport, protocol, sslcontext, server_side, server_hostname, timeouts
        )
        return tls

    async def create_datagram_endpoint(
        self, protocol_factory: Any, *addresses: Any, reuse_address: bool | None = None, **options: Any
    ) -> Any:
        """Make a datagram endpoint. ``reuse_address`` is gone since 3.11: as with uvloop, ``False`` is taken, with a warning."""
        if reuse_address:
            raise ValueError("reuse_address=True: with SO_REUSEADDR others could take datagrams away; see reuse_port")
        if reuse_address is not None:
            warnings.warn("reuse_address has no effect any more, leave it out", DeprecationWarning, stacklevel=2)
        return await super().create_datagram_endpoint(protocol_factory, *addresses, **options)

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        if not isinstance(transp, _Transport):
            return int(await super()._sendfile_native(transp, file, offset, count))  # type: ignore[misc]
        waiter = transp._make_empty_waiter()
        resume_reading = transp.is_reading()
        transp.pause_reading()
        try:
            # Who is cancelled here, or whose transport is closed, gives it back, too.
            await waiter
            if transp.is_closing():
                raise ConnectionError("Connection is closed by peer")
            if transp._eof:
                raise RuntimeError("Cannot call sendfile() after write_eof()")
            return await self.sock_sendfile(transp._sock, file, offset, count, fallback=False)
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> DatagramTransport:
        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    @property
    def _child_watcher_callback(self) -> Callable[..., None]:
        # Asked for by who starts a process: its end is told in their context, whichever thread waits for it.
        return functools.partial(copy_context().run, super()._child_watcher_callback)  # type: ignore[misc]

    def close(self) -> None:
        """Close the loop: nothing that waits will be run."""
        super().close()
        self._drop_all()


class ContextLoop(Loop):
    """The loop of a context, which runs in its turns for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()
        self._thread_id: int | None = threading.get_ident()
        _of_threads[threading.get_ident()] = self
        self._spawned: set[asyncio.Task[Any]] = set()
        self._at_stop: list[Callable[[], Any]] = []

    def _join(self) -> None:
        if not self._be_contexts():
            raise RuntimeError("the calling thread is not a context's")

    def is_running(self) -> bool:
        """Whether callbacks run: on its own thread not while Erlang has Python code run there."""
        if self._thread_id == threading.get_ident():
            return asyncio._get_running_loop() is self
        return self._thread_id is not None

    # Called by native code, on its thread.

    def _enter(self) -> None:
        if self._thread_id is not None:
            asyncio._set_running_loop(self)
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook,  # type: ignore[attr-defined]
                finalizer=self._asyncgen_finalizer_hook,  # type: ignore[attr-defined]
            )

    def _leave(self) -> None:
        asyncio._set_running_loop(None)
        sys.set_asyncgen_hooks(None, None)

    def _begin_task(
        self, coro: Coroutine[Any, Any, Any], context: Context | None, done: Callable[[asyncio.Task[Any]], None]
    ) -> asyncio.Task[Any]:
        """A task whose first step runs later, whatever task factory there is: so it may be made in any context."""
        task = asyncio.Task(coro, loop=self, context=context)
        task.add_done_callback(done, context=context)
        return task

    def _current_task(self) -> asyncio.Task[Any] | None:
        return asyncio.current_task(self)

    def _later(
        self, delay: float, context: Context | None, due: Callable[..., None], args: tuple[Any, ...]
    ) -> asyncio.TimerHandle:
        return self.call_later(delay, due, *args, context=context)

    def _spawn(self, coro: Coroutine[Any, Any, Any], name: str | None) -> asyncio.Task[Any]:
        task = self.create_task(coro, name=name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._spawned.discard(task)
        self._tell(task, "unhandled exception in a task of the context")

    async def _run_at_stop(self) -> None:
        while self._at_stop:
            try:
                result = self._at_stop.pop()()
                if asyncio.iscoroutine(result):
                    await result
            except Exception as exc:
                message = "unhandled exception in what was to run at the context's end"
                self.call_exception_handler({"message": message, "exception": exc})

    def _begin_end(self) -> None:
        self._last_task = self.create_task(self._end_tasks())

    async def _end_tasks(self) -> None:
        """Cancel all tasks, wait for them, and end what else the loop has."""
        try:
            await self._run_at_stop()
            while left := asyncio.all_tasks(self) - {self._last_task}:
                for task in left:
                    task.cancel()
                await asyncio.wait(left)
                for task in left - self._spawned:
                    self._tell(task, "unhandled exception while a context ended")
            await self.shutdown_asyncgens()
            await self.shutdown_default_executor()
        finally:
            _Native.stop(self)

    def _tell(self, task: asyncio.Task[Any], message: str) -> None:
        exc = None if task.cancelled() else task.exception()
        if exc is not None:
            self.call_exception_handler({"message": message, "exception": exc, "task": task})

    def _cancel_all(self) -> bool:
        """Cancel what is left at the end, and be the running loop once more; answer whether there is anything."""
        left = asyncio.all_tasks(self)
        self._enter()
        for task in left:
            task.cancel()
        return bool(left)

    def _end(self) -> list[Any] | None:
        """Close the loop; answer the coroutines that have not ended, if any: they must never be destroyed."""
        left = asyncio.all_tasks(self)
        for task in left:
            # The log has told of those that are left; an interpreter that ends can log no more.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        coros = [task.get_coro() for task in left]
        self._leave()
        if self._thread_id is not None:
            _of_threads.pop(self._thread_id, None)
        self._thread_id = None
        Loop.close(self)
        return coros or None

    # What its context does.

    def run_forever(self) -> NoReturn:
        """Raise: it runs already."""
        raise _runs_already("run_forever")

    def run_until_complete(self, future: Any) -> NoReturn:
        """Raise: it runs already."""
        if asyncio.iscoroutine(future):
            future.close()
        raise _runs_already("run_until_complete")

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        """Raise: signals are the VM's."""
        raise RuntimeError("signals are the Erlang VM's: handle them there, with os:set_signal/2")

    def stop(self) -> NoReturn:
        """Raise: it ends with its context."""
        raise RuntimeError("stop(): this loop is a context's, and ends with it: py_reactor_context:stop/1 in Erlang")

    def close(self) -> NoReturn:
        """Raise: it ends with its context."""
        raise RuntimeError("close(): this loop is a context's, and ends with it: py_reactor_context:stop/1 in Erlang")


def _runs_already(method: str) -> RuntimeError:
    return RuntimeError(
        f"{method}(): this loop is a context's, and runs already, between its connections' callbacks: make a task of "
        "what is to run, with loop.create_task(coro), or use a loop of your own, erlang.new_event_loop()"
    )


def make_contexts() -> ContextLoop:
    """Make the loop of the context whose thread this is; called by native code, once."""
    return ContextLoop()


_of_threads: weakref.WeakValueDictionary[int, ContextLoop] = weakref.WeakValueDictionary()


def of_thread(ident: int) -> ContextLoop | None:
    """Answer the loop of the context whose thread that is, if it has one; from any thread."""
    return _of_threads.get(ident)
