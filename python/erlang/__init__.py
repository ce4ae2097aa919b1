"""The Python side of ``py_reactor``: messages to Erlang here, protocols in :mod:`erlang.reactor`."""

from erlang._messages import self, send
from erlang._terms import Fun, Pid, Port, Ref

__all__ = ["Fun", "Pid", "Port", "Ref", "self", "send"]
