"""Sockets under their transports, closed, used again or taken twice: scenarios of transports.py."""

import asyncio
import contextlib
import errno
import socket

from endpoints import high, reuse, turns, until
from transports import Echo, Recorder, closes, pair, scenario


@scenario
async def who_has_the_number_of_another_is_served(loop):
    for pauses in (False, True):
        robbed, its, end = await pair(loop, own=high)
        if pauses:
            robbed.pause_reading()
            await turns()
        number = robbed._sock.fileno()
        robbed._sock.close()
        ours, theirs = reuse(number)
        ours.setblocking(False)
        transport, protocol = await loop.connect_accepted_socket(Echo, ours)
        if pauses:
            transport.pause_reading()
            transport.write(b"unread")
            await turns()
        robbed.close()
        await its.lost
        await turns()
        if pauses:
            theirs.close()
            assert isinstance(await asyncio.wait_for(protocol.lost, 30), ConnectionResetError)
        else:
            await loop.sock_sendall(theirs, b"hello")
            assert await asyncio.wait_for(loop.sock_recv(theirs, 10), 30) == b"hello"
            await closes(transport, protocol, theirs)
        end.close()


@scenario
async def a_reader_that_pauses_listens_to_no_stranger(loop):
    robbed, its, end = await pair(loop, own=high)
    number = robbed._sock.fileno()
    robbed._sock.close()
    strangers = reuse(number)
    robbed.pause_reading()
    assert (await asyncio.wait_for(its.lost, 30)).errno == errno.EBADF
    for sock in (*strangers, end):
        sock.close()


@scenario
async def a_socket_has_one_transport(loop):
    transport, protocol, theirs = await pair(loop, Echo)
    # Not by `connect_accepted_socket`, which from 3.14.8 on closes a socket that gets no transport.
    with contextlib.suppress(RuntimeError):
        loop._make_socket_transport(transport._sock, Recorder(), loop.create_future())
        raise AssertionError("a second one")
    await loop.sock_sendall(theirs, b"hello")
    assert await asyncio.wait_for(loop.sock_recv(theirs, 10), 30) == b"hello"
    # A copy is another socket.
    other, its = await loop.connect_accepted_socket(Recorder, transport._sock.dup())
    other.abort()
    await its.lost
    await closes(transport, protocol, theirs)


@scenario
async def a_transport_has_one_socket(loop):
    transport, protocol, theirs = await pair(loop)
    with socket.socket() as other:
        for lets_go in (False, True):
            if lets_go:
                await closes(transport, protocol, theirs)
                await until(lambda: transport._loop is None)
            with contextlib.suppress(RuntimeError):
                transport._open(loop, other, None, None, print)
                raise AssertionError("opened again")
