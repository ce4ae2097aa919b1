"""What ``Protocol.get_extra_info`` tells, under the names that asyncio has for it."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
from collections.abc import Callable
from typing import Any


def get(fd: int | None, known: dict[str, Any], info: Any, name: str, default: Any) -> Any:
    """What ``name`` is of the connection on ``fd``, or None once that is gone; what was found before is in ``known``."""
    value = known.get(name)
    if fd is not None and (value is None or _is_closed(value)):
        ask = _ASK.get(name)
        # The number is certain only as long as nobody else runs: what is asked is a duplicate.
        value = None if ask is None else ask(fd)
        if value is not None:
            known[name] = value
    if value is None and name == "peername":
        value = _as_told(info)
    return default if value is None else value


def close(known: dict[str, Any]) -> None:
    """The connection is gone: close what it has opened here."""
    for value in known.values():
        if isinstance(value, (socket.socket, io.FileIO)):
            with contextlib.suppress(OSError):
                value.close()


def _is_closed(value: object) -> bool:
    if isinstance(value, socket.socket):
        return value.fileno() < 0
    return isinstance(value, io.FileIO) and value.closed


def _socket(fd: int) -> socket.socket | None:
    duplicate = os.dup(fd)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None


def _pipe(fd: int) -> io.FileIO | None:
    duplicate = os.dup(fd)
    if stat.S_ISSOCK(os.fstat(duplicate).st_mode):
        os.close(duplicate)
        return None
    # What it may do, it finds out itself: "r+" is refused where the end of a pipe has one direction.
    import fcntl

    mode = {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(fcntl.fcntl(duplicate, fcntl.F_GETFL) & os.O_ACCMODE, "rb+")
    return io.FileIO(duplicate, mode)


def _name(method: str) -> Callable[[int], Any]:
    def ask(fd: int) -> Any:
        sock = _socket(fd)
        if sock is None:
            return None
        with sock:
            try:
                return getattr(sock, method)() or None
            except OSError:
                return None

    return ask


def _as_told(info: Any) -> Any:
    """The peer of a TCP connection as ``client_info`` has it, should the kernel not say any more."""
    if not isinstance(info, dict):
        return None
    addr, port = info.get("addr"), info.get("port")
    if not isinstance(addr, str) or not isinstance(port, int):
        return None
    return (addr, port, 0, info.get("scope_id", 0)) if ":" in addr else (addr, port)


_ASK: dict[str, Callable[[int], Any]] = {
    "peername": _name("getpeername"),
    "sockname": _name("getsockname"),
    "socket": _socket,
    "pipe": _pipe,
}
