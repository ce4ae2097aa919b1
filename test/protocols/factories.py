"""Ways to make protocols."""

import erlang.reactor as reactor
from recorder import protocol


class Greeter(reactor.Protocol):
    def __init__(self, greeting=b"hello"):
        super().__init__()
        self.greeting = greeting

    def connection_made(self, fd, client_info):
        self.write(self.greeting)


class Maker:
    def __init__(self, prefix):
        self.prefix = prefix
        self.count = 0

    def make(self):
        self.count += 1
        return Greeter(self.prefix + b"%d" % self.count)


class Echo(reactor.Protocol):
    def data_received(self, data):
        self.write(data)
        return "continue"


class WithoutSuper(reactor.Protocol):
    """Overrides everything, and never calls super()."""

    def __init__(self):
        self.mine = True

    def connection_made(self, fd, client_info):
        self.same_fd = fd == self.fd and fd >= 0
        assert client_info is self.client_info

    def data_received(self, data):
        addr = self.client_info["addr"]
        text = f"fd={self.same_fd} info={addr} closed={self.closed} buffer={len(self.write_buffer)}"
        self.write_buffer.extend(text.encode())
        return "write_pending"

    def connection_lost(self):
        pass


class LooksAtItself(reactor.Protocol):
    def connection_made(self, fd, client_info):
        text = f"{self.fd == fd} {self.client_info == client_info} {self.closed} {len(self.write_buffer)}"
        self.write(text.encode())


def raises():
    raise ValueError("not today")


def fd_of(tag):
    return protocol(tag).fd


def is_protocol_of(tag, fd):
    return reactor.get_protocol(fd) is protocol(tag)


def client_info(tag):
    return {key: f"{type(value).__name__}:{value}" for key, value in protocol(tag).client_info.items()}
