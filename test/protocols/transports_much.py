"""Stream transports that get much at a time, and so straight into the bytes that their protocols are given: scenarios of
transports.py."""

import asyncio
import errno
import os
import random
import socket

from endpoints import high, reuse, turns, until
from transports import Echo, Recorder, closes, pair, reset, scenario

# More than two full buffers.
MUCH = bytes(range(256)) * 800


async def gets(loop, protocol, theirs, data):
    before = len(protocol.data)
    await loop.sock_sendall(theirs, data)
    await until(lambda: len(protocol.data) == before + len(data))
    assert protocol.data[before:] == data


@scenario
async def much_and_little_arrive_in_order(loop):
    chance = random.Random(17)
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, family=family)
        for _ in range(3):
            await gets(loop, protocol, theirs, MUCH)
            # Long enough for buffers, and again.
            for length in [1] * 12 + [chance.randint(1, 60_000) for _ in range(6)] + [5000] * 4:
                await gets(loop, protocol, theirs, MUCH[:length])
        theirs.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert protocol.told == ["made", "eof", "lost"]
        theirs.close()


@scenario
async def who_pauses_amid_much_gets_the_rest_later(loop):
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, family=family)
        await gets(loop, protocol, theirs, MUCH)
        transport.pause_reading()
        sending = loop.create_task(loop.sock_sendall(theirs, MUCH * 40))
        await turns()
        assert len(protocol.data) == len(MUCH)
        transport.resume_reading()
        await sending
        await until(lambda: len(protocol.data) == 41 * len(MUCH))
        assert protocol.data == MUCH * 41
        await closes(transport, protocol, theirs)


@scenario
async def much_ends_in_every_way(loop):
    async def begin(family="tcp"):
        transport, protocol, theirs = await pair(loop, family=family, own=high)
        await gets(loop, protocol, theirs, MUCH)
        return transport, protocol, theirs

    for family in ("tcp", "unix"):
        # With more of it.
        transport, protocol, theirs = await begin(family)
        await loop.sock_sendall(theirs, MUCH[:50_000])
        theirs.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert protocol.data == MUCH + MUCH[:50_000]
        theirs.close()
        # By ours.
        for end in ("close", "abort"):
            transport, protocol, theirs = await begin(family)
            sending = loop.create_task(loop.sock_sendall(theirs, MUCH * 40))
            await until(lambda: len(protocol.data) > 2 * len(MUCH))
            getattr(transport, end)()
            had = len(protocol.data)
            assert await protocol.lost is None
            assert len(protocol.data) == had
            await asyncio.gather(sending, return_exceptions=True)
            theirs.close()
    transport, protocol, theirs = await begin()
    reset(theirs)
    assert isinstance(await protocol.lost, ConnectionResetError)
    # A stranger has the number of its socket.
    transport, protocol, theirs = await begin()
    number = transport._sock.fileno()
    transport._sock.close()
    strangers = reuse(number)
    strangers[1].sendall(b"not for us")
    await loop.sock_sendall(theirs, b"more")
    await turns()
    transport.pause_reading()
    assert (await asyncio.wait_for(protocol.lost, 10)).errno == errno.EBADF
    assert strangers[0].recv(20) == b"not for us"
    for sock in (*strangers, theirs):
        sock.close()


@scenario
async def a_buffered_protocol_gets_much(loop):
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self):
            self.own = bytearray(10_000)
            self.data = b""
            self.told = []
            self.lost = loop.create_future()

        def get_buffer(self, sizehint):
            return self.own

        def buffer_updated(self, nbytes):
            self.data += self.own[:nbytes]

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    transport, protocol, theirs = await pair(loop, Buffered)
    await gets(loop, protocol, theirs, MUCH)
    # It becomes one amid that, and is one no more.
    recorder = Recorder()
    transport.set_protocol(recorder)
    await gets(loop, recorder, theirs, MUCH)
    transport.set_protocol(protocol)
    await gets(loop, protocol, theirs, MUCH)
    await closes(transport, protocol, theirs)


@scenario
async def many_get_much(loop):
    ends = [await pair(loop, Echo) for _ in range(12)]

    async def exchange(theirs):
        for length in (16_384, 100_000, 16_384, 16_384, 300_000, 10):
            data = os.urandom(length)
            sending = loop.create_task(loop.sock_sendall(theirs, data))
            received = b""
            while len(received) < length:
                received += await loop.sock_recv(theirs, 65536)
            await sending
            assert received == data

    await asyncio.gather(*(exchange(theirs) for _, _, theirs in ends))
    for transport, protocol, theirs in ends:
        await closes(transport, protocol, theirs)
