"""Scenarios of endpoints.py: no descriptor is left."""

import asyncio
import contextlib
import socket

from endpoints import pair, scenario, turns, until
from endpoints_datagrams import Datagrams
from exhausted import take_all


@contextlib.contextmanager
def nothing_left():
    taken = take_all()
    try:
        yield
    finally:
        taken.give_back()


@scenario
async def a_loop_that_waits_for_its_first_descriptor_needs_no_other(loop):
    ours, theirs = pair(socket.SOCK_DGRAM)
    kind = type(loop).__mro__[1] if type(loop).__name__ == "ContextLoop" else type(loop)

    async def main():
        with nothing_left():
            transport, protocol = await other.create_datagram_endpoint(Datagrams, sock=ours)
            theirs.send(b"hello")
            await until(lambda: protocol.got)
            transport.close()
            await until(lambda: protocol.lost)

    def run():
        # What drives it is made when it is first run.
        other.run_until_complete(asyncio.sleep(0))
        other.run_until_complete(main())

    other = kind(loop._backend)
    try:
        await asyncio.to_thread(run)
    finally:
        other.close()
        theirs.close()


@scenario
async def who_is_told_of_for_ever_waits_until_there_are_descriptors_again(loop):
    """Descriptors that were closed while what they named is open elsewhere: nothing but another set gets rid of them."""
    heard = []
    stray, peer = pair()
    elsewhere = stray.dup()
    loop.add_reader(stray, heard.append, "stray")
    stray.close()
    other, others = pair()
    loop.add_reader(other, heard.append, "other")
    await turns()
    with nothing_left():
        peer.send(b"x")
        await turns(50)
        others.send(b"y")
        await until(lambda: "other" in heard)
    await turns(50)
    assert "stray" not in heard
    heard.clear()
    await until(lambda: "other" in heard)
    loop.remove_reader(other)
    for sock in (peer, elsewhere, other, others):
        sock.close()


@scenario
async def a_transport_that_is_told_of_for_ever_ends_nobody_else(loop):
    import transports

    robbed, its, peer = await transports.pair(loop, family="unix")
    echo, protocol, theirs = await transports.pair(loop, transports.Echo)
    elsewhere = robbed._sock.dup()
    robbed.pause_reading()
    await turns()
    robbed._sock.close()
    robbed.abort()
    await its.lost
    with nothing_left():
        with contextlib.suppress(OSError):
            peer.send(b"x")
        peer.close()
        for _ in range(20):
            await loop.sock_sendall(theirs, b"hello")
            assert await loop.sock_recv(theirs, 10) == b"hello"
    await loop.sock_sendall(theirs, b"again")
    assert await loop.sock_recv(theirs, 10) == b"again"
    await transports.closes(echo, protocol, theirs)
    elsewhere.close()
