"""What ``Protocol.get_extra_info`` tells, under the names that asyncio has for it."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
from collections.abc import Callable
from typing import Any


def get(duplicate: int | None, known: dict[str, Any], info: Any, name: str, default: Any) -> Any:
    """What ``name`` is of a connection, of whose descriptor this is a duplicate; None once it is gone.

    The duplicate is this function's to close. What was found before is in ``known``.
    """
    value = known.get(name)
    ask = _ASK.get(name)
    if duplicate is not None:
        if ask is None or not (value is None or _is_closed(value)):
            os.close(duplicate)
        else:
            value = ask(duplicate)
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


def _socket(duplicate: int) -> socket.socket | None:
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None


def _pipe(duplicate: int) -> io.FileIO | None:
    if stat.S_ISSOCK(os.fstat(duplicate).st_mode):
        os.close(duplicate)
        return None
    # What it may do, it finds out itself: "r+" is refused where the end of a pipe has one direction.
    import fcntl

    mode = {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(fcntl.fcntl(duplicate, fcntl.F_GETFL) & os.O_ACCMODE, "rb+")
    return io.FileIO(duplicate, mode)


def _name(method: str) -> Callable[[int], Any]:
    def ask(duplicate: int) -> Any:
        sock = _socket(duplicate)
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
