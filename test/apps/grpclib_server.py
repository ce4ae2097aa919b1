"""A server of grpclib, without generated code, which its client talks to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

import erlang.reactor as reactor


class Greeter:
    async def greet(self, stream: Stream[StringValue, StringValue]) -> None:
        request = await stream.recv_message()
        assert request is not None
        await stream.send_message(StringValue(value=f"hello {request.value}"))

    async def count(self, stream: Stream[Int64Value, Int64Value]) -> None:
        request = await stream.recv_message()
        assert request is not None
        for number in range(request.value):
            await stream.send_message(Int64Value(value=number))

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/Greeter/Greet": Handler(self.greet, Cardinality.UNARY_UNARY, StringValue, StringValue),
            "/Greeter/Count": Handler(self.count, Cardinality.UNARY_STREAM, Int64Value, Int64Value),
        }


async def serve() -> int:
    server = Server([Greeter()])
    await server.start("127.0.0.1", 0)
    # Its `wait_closed` waits for connections that it leaves open (3.12); the context closes them.
    reactor.on_stop(server.close)
    return int(server._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]


async def check(port: int) -> None:
    async with Channel("127.0.0.1", port) as channel:
        greet = UnaryUnaryMethod(channel, "/Greeter/Greet", StringValue, StringValue)
        answers = await asyncio.gather(*(greet(StringValue(value=str(number))) for number in range(50)))
        assert [answer.value for answer in answers] == [f"hello {number}" for number in range(50)]
        count = UnaryStreamMethod(channel, "/Greeter/Count", Int64Value, Int64Value)
        assert [answer.value for answer in await count(Int64Value(value=1000))] == list(range(1000))


async def watch(port: int, ready: Callable[[], None]) -> None:
    async with Channel("127.0.0.1", port) as channel:
        greet = UnaryUnaryMethod(channel, "/Greeter/Greet", StringValue, StringValue)
        assert (await greet(StringValue(value="you"))).value == "hello you"
        ready()
        while channel._connected:
            await asyncio.sleep(0.01)
