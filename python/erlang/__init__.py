"""The Python side of ``py_reactor``: messages to Erlang here, protocols in :mod:`erlang.reactor`."""

from erlang._calls import CallError, call
from erlang._event_loops import event_loop, new_event_loop
from erlang._messages import self, send
from erlang._terms import Fun, Pid, Port, Ref

__all__ = ["CallError", "Fun", "Pid", "Port", "Ref", "call", "event_loop", "new_event_loop", "self", "send"]
