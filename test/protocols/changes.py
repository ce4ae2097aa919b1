"""Protocols whose methods, or class, change while they serve."""

import gc

import erlang.reactor as reactor
import recorder


class Bare(reactor.Protocol):
    """Has no attributes of its own. Answers whether CPython has made a dict for some."""

    def data_received(self, data):
        if data == b"make":
            vars(self)
        dicts = [held for held in gc.get_referents(self) if type(held) is dict and held is not self.client_info]
        self.write_buffer += b"made" if dicts else b"none"
        return "write_pending"


class Plain(recorder.Recording):
    """Inherits write_ready; the data says what is to change first."""

    def data_received(self, data):
        getattr(self, bytes(data).decode())()
        self.write_buffer += b"x"
        return "write_pending"

    def nothing(self):
        pass

    def some_attributes(self):
        self.one, self.two = 1, 2

    def many_attributes(self):
        for number in range(50):
            setattr(self, f"attribute_{number}", number)

    def other_class(self):
        self.__class__ = Wrapped

    def own_write_ready(self):
        self.write_ready = self.bracketed

    def own_write_ready_by_object(self):
        object.__setattr__(self, "write_ready", self.bracketed)

    def own_write_ready_by_dict(self):
        vars(self)["write_ready"] = self.bracketed

    def without_own_write_ready(self):
        del self.write_ready

    def own_write(self):
        self.write = self.twice

    def patched_class(self):
        type(self).write_ready = Wrapped.write_ready

    def unpatched_class(self):
        del type(self).write_ready

    def patched_base(self):
        reactor.Protocol.write_ready, type(self).before = Wrapped.write_ready, reactor.Protocol.write_ready

    def unpatched_base(self):
        reactor.Protocol.write_ready = type(self).before

    def bracketed(self):
        self.write(b"[" + bytes(self.write_buffer) + b"]")
        self.write_buffer.clear()
        return "read_pending"

    def twice(self, data):
        count = recorder.reactor.Protocol.write(self, bytes(data) * 2)
        return count // 2


class Wrapped(Plain):
    def write_ready(self):
        self.write(b"<" + bytes(self.write_buffer) + b">")
        self.write_buffer.clear()
        return "read_pending"

    def plain_again(self):
        self.__class__ = Plain


class Decides(Plain):
    """What its methods are, code decides."""

    own = False

    def __getattribute__(self, name):
        if name == "write_ready" and object.__getattribute__(self, "own"):
            name = "bracketed"
        return object.__getattribute__(self, name)

    def decide(self):
        self.own = not self.own


class Datagrams(recorder.Recording):
    """Answers each datagram; the data says what is to change first."""

    def data_received(self, data):
        if data == b"own":
            self.datagram_received = self.addressed
        elif data == b"class":
            self.__class__ = Addressed
        self.write(b"data")
        return "continue"

    def addressed(self, data, addr):
        if data == b"not":
            del self.datagram_received
        self.sendto(b"addressed %d" % addr[1], addr)
        return "continue"


class FromTheBeginning(Datagrams):
    def __init__(self):
        self.datagram_received = self.addressed


class Addressed(Datagrams):
    def datagram_received(self, data, addr):
        return self.addressed(data, addr)
