"""Erlang terms that Python only carries: they come back to Erlang unchanged."""

from __future__ import annotations

__all__ = ["Fun", "Opaque", "Pid", "Port", "Ref"]


class Opaque:
    """An Erlang term without a Python counterpart. Compares and hashes by value; cannot be looked into."""

    __slots__ = ("_external", "_text")

    def __init__(self, external: bytes, text: str) -> None:
        self._external = external
        self._text = text

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Opaque) and other._external == self._external

    def __hash__(self) -> int:
        return hash(self._external)

    def __repr__(self) -> str:
        return f"<erlang.{type(self).__name__} {self._text}>"


class Pid(Opaque):
    """An Erlang process."""

    __slots__ = ()


class Ref(Opaque):
    """An Erlang reference."""

    __slots__ = ()


class Port(Opaque):
    """An Erlang port."""

    __slots__ = ()


class Fun(Opaque):
    """An Erlang fun."""

    __slots__ = ()
