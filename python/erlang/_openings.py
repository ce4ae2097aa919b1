"""What opens connections of an event loop, by the driver: servers that accept, and connects."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import functools
import os
import socket
import sys
import weakref
from asyncio import constants, trsock
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from erlang._handles import repeatable
from erlang._transports import COUNTS_BY_ITSELF, SocketTransport

if TYPE_CHECKING:
    from typing import Self

    from _py_reactor import Loop as _Native

    class _Base(_Native, asyncio.SelectorEventLoop):
        pass
else:
    _Base = object

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC)
# How long a connect to a Unix socket whose backlog is full waits: nothing tells when there is room.
_BACKLOG_RETRY_DELAY = 0.005
# The addresses of these native code can tell.
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class _Parts(NamedTuple):
    # The first ones by their places: native code makes the transports of what is plain.
    is_plain: bool
    factory: Callable[[], Any]
    context: contextvars.Context
    server: Any
    # What every connection is named on our side, or None.
    name: Any
    transport: type[SocketTransport] = SocketTransport
    buffered: type[asyncio.BufferedProtocol] = asyncio.BufferedProtocol
    counts_by_itself: bool = COUNTS_BY_ITSELF
    begin: Any = SocketTransport._begin


class _Serving(_Parts):
    """A listening socket that is accepted from."""

    sock: socket.socket
    sslcontext: Any
    backlog: int
    timeouts: Any
    fd: int
    over = False

    def __new__(
        cls,
        factory: Callable[[], Any],
        sock: socket.socket,
        sslcontext: Any,
        server: Any,
        backlog: int,
        timeouts: Any,
        context: contextvars.Context | None,
    ) -> Self:
        is_plain = sslcontext is None and sock.family in _FAMILIES and sock.type == socket.SOCK_STREAM
        # A server has a context of its own since 3.15.
        context = contextvars.copy_context() if context is None else context
        self = super().__new__(cls, is_plain, factory, context, server, _name_of_all(sock))
        self.sock = sock
        self.sslcontext = sslcontext
        self.backlog = backlog
        self.timeouts = timeouts
        self.fd = sock.fileno()
        if is_plain and sock.family != socket.AF_UNIX:
            # Those that are accepted have it from there.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self


class Openings(_Base):
    """Mixed into a loop: what asyncio does with readers and writers, its driver does."""

    def _openings_init(self) -> None:
        self._served: dict[int, _Serving] = {}
        self._serving_numbers: dict[int, int] = {}
        # Who waits for each listening socket, in turn: a driver waits for it once.
        self._accepting: dict[int, tuple[list[asyncio.Future[Any]], socket.socket]] = {}
        # Who was accepted for one that had just given up, of listening sockets that are still there.
        self._arrived: weakref.WeakKeyDictionary[socket.socket, list[tuple[socket.socket, Any]]] = weakref.WeakKeyDictionary()
        self._connecting: dict[int, tuple[asyncio.Future[None], Any]] = {}
        # Of listening sockets, what is to be removed with them.
        self._paths: dict[int, tuple[Any, int]] = {}

    # Servers.

    def _start_serving(
        self,
        protocol_factory: Callable[[], Any],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *timeouts: Any,
        context: contextvars.Context | None = None,
        **named_timeouts: Any,
    ) -> None:
        timeouts += tuple(named_timeouts.values())
        self._serve(_Serving(protocol_factory, sock, sslcontext, server, backlog, timeouts, context))

    def _serve(self, serving: _Serving) -> None:
        self._check_closed()  # type: ignore[attr-defined]
        self._stop_accepting(serving.fd)
        number = self._open(serving.fd, max(serving.backlog, 1))
        self._served[number] = serving
        self._serving_numbers[serving.fd] = number

    def _stop_accepting(self, fd: int) -> None:
        number = self._serving_numbers.pop(fd, None)
        if number is not None:
            self._served.pop(number).over = True
            self._stop_opening(number)

    def _stop_serving(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        self._stop_accepting(fd)
        super()._stop_serving(sock)  # type: ignore[misc]
        self._unlink_path(fd)

    if sys.version_info < (3, 13):

        async def create_unix_server(
            self, protocol_factory: Callable[[], Any], path: Any = None, *, cleanup_socket: bool = False, **options: Any
        ) -> asyncio.Server:
            """Serve a Unix socket. ``cleanup_socket`` is Python 3.13's: its path is removed when the server is closed."""
            server: asyncio.Server = await super().create_unix_server(protocol_factory, path, **options)
            if cleanup_socket:
                for sock in server.sockets:
                    name = sock.getsockname()
                    # Not an abstract name.
                    if name and name[0] not in (0, "\0"):
                        with contextlib.suppress(FileNotFoundError):
                            self._paths[sock.fileno()] = (name, os.stat(name).st_ino)
            return server

    def _unlink_path(self, fd: int) -> None:
        path, inode = self._paths.pop(fd, (None, 0))
        if path is None:
            return
        try:
            # Another one may be served there by now.
            if os.stat(path).st_ino == inode:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, exc)

    def _accepted(self, number: int, conn: socket.socket, peer: Any) -> None:
        serving = self._served.get(number)
        if serving is None:
            self._accepted_once(number, conn, peer)
            return
        if self._debug:  # type: ignore[attr-defined]
            logger.debug("%r got a new connection from %r: %r", serving.server, peer, conn)
        self.call_soon(self._serve_accepted, serving, conn, peer, context=serving.context.copy())

    def _serve_accepted(self, serving: _Serving, conn: socket.socket, peer: Any) -> None:
        if serving.over:
            conn.close()
            return
        extra = {"peername": peer}
        if serving.name is not None:
            extra["sockname"] = serving.name
        if serving.sslcontext:
            # The handshake is waited for, by a task.
            accept = self._accept_connection2(  # type: ignore[attr-defined]
                serving.factory, conn, extra, serving.sslcontext, serving.server, *serving.timeouts
            )
            self.create_task(accept)
            return
        protocol = None
        try:
            protocol = serving.factory()
            self._make_socket_transport(conn, protocol, extra=extra, server=serving.server)  # type: ignore[attr-defined]
        except (SystemExit, KeyboardInterrupt):
            conn.close()
            raise
        except BaseException as exc:
            conn.close()
            context = {"message": "Error on transport creation for incoming connection", "exception": exc}
            if protocol is not None:
                context["protocol"] = protocol
            self.call_exception_handler(context)

    @repeatable
    def _accept_failed(self, number: int, code: int) -> None:
        if number in self._accepting:
            for fut in self._accepting[number][0]:
                if not fut.done():
                    fut.set_exception(OSError(code, os.strerror(code)))
            self._accepting.pop(number, None)
            return
        serving = self._served.get(number)
        if serving is None:
            return
        # First of all: interrupted after that, it serves again all the same, and does so once.
        self.call_later(constants.ACCEPT_RETRY_DELAY, self._serve_again, serving)
        self._serving_numbers.pop(serving.fd, None)
        self._served.pop(number, None)
        short = code in _OUT_OF_RESOURCES
        self.call_exception_handler(
            {
                "message": "socket.accept() out of system resource" if short else "socket.accept() failed",
                "exception": OSError(code, os.strerror(code)),
                "socket": trsock.TransportSocket(serving.sock),
            }
        )

    @repeatable
    def _serve_again(self, serving: _Serving) -> None:
        if serving.sock.fileno() == serving.fd and serving.fd not in self._serving_numbers:
            self._serve(serving)

    # sock_accept.

    def _sock_accept(self, fut: asyncio.Future[Any], sock: socket.socket) -> None:
        fd = sock.fileno()
        if arrived := self._arrived.get(sock):
            fut.set_result(arrived[0])
            del arrived[0]
            return
        try:
            conn, address = sock.accept()
            conn.setblocking(False)
        except (BlockingIOError, InterruptedError):
            self._ensure_fd_no_transport(fd)  # type: ignore[attr-defined]
            number = self._accepting_number(sock)
            if number is None:
                number = self._open(fd, 1)
                self._accepting[number] = ([], sock)
            self._accepting[number][0].append(fut)
            fut.add_done_callback(functools.partial(self._stop_accepting_once, number))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            fut.set_exception(exc)
        else:
            fut.set_result((conn, address))

    def _accepting_number(self, sock: socket.socket) -> int | None:
        return next((number for number, (_, of) in self._accepting.items() if of is sock), None)

    # An interrupt may come between any two steps of these. Who is told stays among those who wait until then, and is taken off
    # once more when that is done.

    def _accepted_once(self, number: int, conn: socket.socket, peer: Any) -> None:
        waiting, sock = self._accepting.get(number, ([], None))
        if not waiting or sock is None:
            # The accept was interrupted before anybody waited for it.
            self._stop_opening(number)
            conn.close()
            return
        fut = waiting[0]
        # After what was ready before: a task that is told, and only then cancelled, would lose it.
        self.call_soon(self._hand_over, fut, sock, [(conn, peer)])
        self._stop_accepting_once(number, fut)

    @repeatable
    def _hand_over(self, fut: asyncio.Future[Any], sock: socket.socket, arrived: list[tuple[socket.socket, Any]]) -> None:
        if not arrived:
            return
        number = self._accepting_number(sock)
        others = [] if number is None else list(self._accepting[number][0])
        # Given up in this very turn: whoever else accepts, or does so next, has it.
        for taker in (fut, *others):
            if not taker.done():
                taker.set_result(arrived[0])
            elif taker.cancelled() or taker.exception() is not None or taker.result() is not arrived[0]:
                continue
            del arrived[0]
            if number is not None:
                self._stop_accepting_once(number, taker)
            return
        kept = self._arrived.setdefault(sock, [])
        if arrived[0] not in kept:
            kept.append(arrived[0])

    def _stop_accepting_once(self, number: int, fut: asyncio.Future[Any]) -> None:
        waiting, _ = self._accepting.get(number, ([], None))
        if fut in waiting and len(waiting) > 1:
            waiting.remove(fut)
        elif fut in waiting or not waiting:
            self._accepting.pop(number, None)
            self._stop_opening(number)

    # Connects.

    def _sock_connect(self, fut: asyncio.Future[None], sock: socket.socket, address: Any) -> None:
        if fut.done():
            return
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError) as exc:
            if exc.errno == errno.EAGAIN and sock.family == socket.AF_UNIX:
                retry = self.call_later(_BACKLOG_RETRY_DELAY, self._sock_connect, fut, sock, address)
                fut.add_done_callback(functools.partial(_cancel, retry))
                return
            fd = sock.fileno()
            self._ensure_fd_no_transport(fd)  # type: ignore[attr-defined]
            number = self._open(fd, 0)
            self._connecting[number] = (fut, address)
            fut.add_done_callback(functools.partial(self._stop_connecting, number))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            fut.set_exception(exc)
        else:
            fut.set_result(None)
        finally:
            fut = None  # type: ignore[assignment]

    def _stop_connecting(self, number: int, _fut: asyncio.Future[None]) -> None:
        # Before whoever awaits it is called, who may close the socket.
        if self._connecting.pop(number, None) is not None:
            self._stop_opening(number)

    @repeatable
    def _connected(self, number: int, code: int) -> None:
        fut, address = self._connecting.get(number, (None, None))
        if fut is not None and not fut.done():
            if code:
                fut.set_exception(OSError(code, f"Connect call failed {address}"))
            else:
                fut.set_result(None)
        self._connecting.pop(number, None)


def _name_of_all(sock: socket.socket) -> Any:
    """The name of every connection that is accepted from it, unless each has its own: of an address that stands for all."""
    name = sock.getsockname()
    return None if sock.family in (socket.AF_INET, socket.AF_INET6) and name[0] in ("0.0.0.0", "::") else name


def _cancel(handle: asyncio.TimerHandle, _fut: asyncio.Future[None]) -> None:
    handle.cancel()
