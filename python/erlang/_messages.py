"""Messages from Python to Erlang processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erlang._native import native
from erlang._terms import Atom

if TYPE_CHECKING:
    from erlang._terms import Pid

__all__ = ["self", "send"]


def send(to: Pid | Atom | str | tuple[str, str], term: Any, /) -> None:
    """Send a message to an Erlang process, as ``To ! Term`` does. Any thread may, in any interpreter.

    Args:
        to: a pid, the name of a process of this node (``str``, or an atom), or a tuple (name, node). Messages from one
            thread to one pid or name arrive in order. What goes to a process that has ended, or to
            another node that cannot be reached, is lost. A name or node in a tuple becomes an atom,
            and atoms stay for ever: do not make names of what clients send.
        term: converted as the result of ``py:call`` is: ``str`` and ``bytes`` become binaries.

    Raises:
        LookupError: no process of this node has that name.
        TypeError, ValueError: ``to`` is none of these, or ``term`` has no Erlang counterpart.
        BlockingIOError: too many messages to other nodes wait. This one was not sent.
        RuntimeError: outside the Erlang VM.
    """
    native.send(str(to) if isinstance(to, Atom) else to, term)


def self() -> Pid:
    """The pid of the Erlang process of this thread's context: wherever Erlang wants a context, it will do.

    Raises:
        RuntimeError: this thread is not a context's, but one that Python code has started, say; or
            outside the Erlang VM.
    """
    pid = native.own_pid()
    if pid is None:
        raise RuntimeError(
            "erlang.self() is known on the thread of a context only: ask there, and pass the pid on"
        )
    return pid
