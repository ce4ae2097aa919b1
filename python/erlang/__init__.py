"""The Python side of ``py_reactor``: see :mod:`erlang.reactor`."""
