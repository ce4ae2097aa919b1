"""Erlang terms that Python only carries: they come back to Erlang unchanged."""

from __future__ import annotations

__all__ = ["Atom", "Fun", "Opaque", "Pid", "Port", "Ref", "atom"]

_ATOM_CHARS_MAX = 255


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


class Atom(Opaque):
    """An Erlang atom, for Erlang: see :func:`atom`. An atom that comes from Erlang is a ``str``."""

    __slots__ = ()

    def __str__(self) -> str:
        return self._text


def atom(name: str, /) -> Atom:
    """The atom of that name, wherever Python gives a term to Erlang; a ``str`` becomes a binary there.

    Not needed for ``true``, ``false`` and ``none``, which Python's ``True``, ``False`` and ``None`` become.
    Erlang never forgets an atom, so that 10000 new ones can be made in all; beyond that a term with one is
    refused (``ValueError``). Those that Erlang knows already do not count.

    Raises:
        TypeError: ``name`` is not a ``str``.
        ValueError: it has more than 255 characters, or some that UTF-8 has not.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an atom is a str, not {type(name).__name__}")
    if len(name) > _ATOM_CHARS_MAX:
        raise ValueError(f"the name of an atom has at most {_ATOM_CHARS_MAX} characters, not {len(name)}")
    return Atom(name.encode(), name)
