"""Connections that know whose they are: client_info names the port of the peer."""

import os
import socket

import erlang.reactor as reactor

strangers = []


class Known(reactor.Protocol):
    """Writes down who is not the one that was announced. One that has gone already is nobody."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        with socket.socket(fileno=os.dup(fd)) as copy:
            try:
                port = copy.getpeername()[1]
            except OSError:
                return
        if port != client_info["port"]:
            strangers.append((port, client_info["port"]))

    def data_received(self, data):
        self.write(data)
        return "continue"


class Wrapping(reactor.Protocol):
    """Wraps its descriptor when it is told to: the object that goes at once closes it."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.name = None

    def data_received(self, data):
        word, _, name = bytes(data).partition(b" ")
        if word == b"wrap":
            socket.socket(fileno=self.fd)
        elif word == b"close":
            os.close(self.fd)
        elif word == b"login":
            self.name = name
            self.write(b"hello " + name)
        else:
            self.write(b"you are " + (self.name or b"nobody"))
        return "continue"


class Leaves(reactor.Protocol):
    """An echo until it is told to leave."""

    def data_received(self, data):
        if data == b"leave":
            return "close"
        self.write(data)
        return "continue"
