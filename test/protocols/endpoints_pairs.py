"""Scenarios of endpoints.py: datagram endpoints of a pair, whose ends have no names, and in which context they are called."""

import contextvars
import errno

from endpoints import raised, scenario, turns, until
from endpoints_datagrams import Datagrams, endpoint, nameless_pair

CALLED = (
    "connection_made",
    "datagram_received",
    "error_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)


@scenario
async def a_peer_without_a_name_is_sent_to(loop):
    ours, theirs = nameless_pair()
    transport, told = await endpoint(loop, sock=ours)
    sent = [b"bytes", memoryview(b"a view"), bytearray(b"an array"), b"x" * 2000]
    for data in sent:
        transport.sendto(data)
    transport.sendto(data=b"by name", addr=None)
    assert [await loop.sock_recv(theirs, 2000) for _ in range(5)] == [*sent, b"by name"]
    theirs.send(b"back")
    await until(lambda: told.got)
    assert told.got == [(b"back", None)]
    raised(TypeError, transport.sendto, "text")
    theirs.close()
    transport.sendto(b"to nobody")
    await until(lambda: told.errors)
    assert told.errors[0].errno == errno.ECONNREFUSED
    transport.close()
    await until(lambda: told.lost)


@scenario
async def who_is_told_that_a_datagram_was_not_sent_may_close(loop):
    class Closing(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.abort()

    ours, theirs = nameless_pair()
    transport, told = await loop.create_datagram_endpoint(Closing, sock=ours)
    for _ in range(300):
        transport.sendto(bytes(1000))
    assert transport.get_write_buffer_size() > 0
    theirs.close()
    await until(lambda: told.lost)
    await turns()
    assert told.lost == [None] and told.errors


@scenario
async def an_endpoint_is_called_in_the_context_of_its_making(loop):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Looking(Datagrams):
        pass

    def looking(name, method):
        def called(*args):
            seen.append((name, variable.get()))
            method(*args)

        return called

    for name in CALLED:
        setattr(Looking, name, looking(name, getattr(Datagrams, name)))

    async def make(sock):
        variable.set("made")
        return await loop.create_datagram_endpoint(Looking, sock=sock)

    for end in ("close", "abort"):
        ours, theirs = nameless_pair()
        transport, told = await loop.create_task(make(ours))
        theirs.send(b"hello")
        await until(lambda told=told: told.got)
        for _ in range(300):
            transport.sendto(bytes(1000))
        while "resume" not in told.marks:
            await loop.sock_recv(theirs, 1000)
        theirs.close()
        transport.sendto(b"to nobody")
        await until(lambda told=told: told.errors)
        getattr(transport, end)()
        await until(lambda told=told: told.lost)
    assert {name for name, _ in seen} == set(CALLED) and {value for _, value in seen} == {"made"}, seen
