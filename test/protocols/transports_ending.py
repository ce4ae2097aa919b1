"""A server of asyncio in a context that stops. Contexts may share this module."""

import asyncio

import erlang
import erlang.reactor as reactor

servers = {}
connected = {}


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        connected[erlang.event_loop()] = self

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        connected.pop(erlang.event_loop(), None)
        erlang.send("transports", f"lost {exc!r}")


def serve():
    async def start():
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        servers[erlang.event_loop()] = server
        erlang.send("transports", server.sockets[0].getsockname()[1])

    reactor.spawn(start())


def say_goodbye():
    async def goodbye():
        await asyncio.sleep(0.05)
        connected[erlang.event_loop()].transport.write(b"goodbye")

    reactor.on_stop(goodbye)


def pause():
    connected[erlang.event_loop()].transport.pause_reading()


def write_much():
    connected[erlang.event_loop()].transport.write(bytes(50_000_000))
