"""Client information as Erlang programs write it, in the form that protocols are given."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from typing import Any


def convert(info: Mapping[Any, Any]) -> dict[str, Any]:
    """A new dict with ``str`` keys, whose ``"addr"`` and ``"type"`` are ``str``.

    Raises:
        TypeError: ``info`` is no mapping, or a key or the address has no meaning as text.
    """
    if not isinstance(info, Mapping):
        raise TypeError(f"client_info must be a dict, not {type(info).__name__}")
    converted = {_key(key): value for key, value in info.items()}
    if "addr" in converted:
        converted["addr"] = _address(converted["addr"])
    if isinstance(converted.get("type"), bytes):
        converted["type"] = converted["type"].decode()
    return converted


def _key(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode()
    if isinstance(key, str):
        return key
    raise TypeError(f"client_info keys must be str, not {key!r}")


def _address(addr: object) -> str:
    """An IP address or a socket path: text, bytes, a charlist, an address tuple, {local, Path}."""
    try:
        match addr:
            case str():
                return addr
            case bytes():
                return os.fsdecode(addr)
            case tuple() if len(addr) == 4:
                return socket.inet_ntop(socket.AF_INET, bytes(addr))
            case tuple() if len(addr) == 8:
                return socket.inet_ntop(socket.AF_INET6, struct.pack("!8H", *addr))
            case list():
                return "".join(map(chr, addr))
            case ("local", str() | bytes() | list() as path):
                return _address(path)
    except (TypeError, ValueError, OverflowError, struct.error):
        pass
    raise TypeError(f"client_info['addr'] is not an address: {addr!r}")
