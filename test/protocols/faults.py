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


class Endless:
    def __repr__(self):
        while True:
            pass


class Text(str):
    def __repr__(self):
        raise RuntimeError("asked")


class Meta(type):
    @property
    def __module__(cls):
        raise RuntimeError("asked")


class Deceptive(metaclass=Meta):
    pass


def generator():
    yield "close"


async def asynchronous_generator():
    yield "close"


class Answers(Recording):
    """Answers what client_info["answers"] names."""

    def data_received(self, data):
        match self.client_info["answers"]:
            case "generator":
                return generator()
            case "asynchronous_generator":
                return asynchronous_generator()
            case "bytes":
                return b"close"
            case "many":
                return [0] * 3_000_000
            case "long":
                return "x" * 100_000_000
            case "number":
                return 1 << 10_000_000
            case "endless":
                return Endless()
            case "subclass":
                return Text("clos")
            case "metaclass":
                return Deceptive()


class AsyncMade(Recording):
    async def made(self):
        pass

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        return self.made()


class AsyncLost(Recording):
    async def lost(self):
        pass

    def connection_lost(self):
        super().connection_lost()
        return self.lost()
