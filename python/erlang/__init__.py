"""The Python side of ``py_reactor``: messages to Erlang here, protocols in :mod:`erlang.reactor`."""

from erlang import reactor
from erlang._calls import CallError, call, call_async
from erlang._event_loops import event_loop, new_event_loop
from erlang._messages import self, send
from erlang._terms import Atom, Fun, Pid, Port, Ref, atom
from erlang.reactor import ReactorBuffer

__all__ = [
    "Atom",
    "CallError",
    "Fun",
    "Pid",
    "Port",
    "ReactorBuffer",
    "Ref",
    "atom",
    "call",
    "call_async",
    "event_loop",
    "new_event_loop",
    "reactor",
    "self",
    "send",
]
