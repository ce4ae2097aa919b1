"""Protocols that go wrong in ways that a script cannot."""

import erlang.reactor as reactor
from recorder import Recording


class Unshowable(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


class NoRepr:
    def __repr__(self):
        raise ValueError("no text")


class Raises(Recording):
    """Raises what client_info["raises"] names."""

    def data_received(self, data):
        name = self.client_info["raises"]
        if name == "ReturnsUnshowable":
            return NoRepr()
        if name == "RecursionError":
            return self.data_received(data)
        if name == "Unshowable":
            raise Unshowable
        raise getattr(__import__("builtins"), name)("oops")


class Empty(reactor.Protocol):
    pass
