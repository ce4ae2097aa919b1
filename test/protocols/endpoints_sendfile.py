"""Scenarios of endpoints.py: files that are sent by a transport which ends meanwhile, or whose sender gives up."""

import os
import socket
import struct
import tempfile

from endpoints import scenario, turns, until

BEFORE = 3_000_000


class Notes:
    def __init__(self):
        self.got, self.lost = bytearray(), []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got += data

    def eof_received(self):
        pass

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass

    def connection_lost(self, exc):
        self.lost.append(exc)


async def begun(loop, file):
    """A transport that sends the file as soon as its peer, which is answered too, has read what was written before."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        ours.connect(listening.getsockname())
        peer, _ = listening.accept()
    for end in (ours, peer):
        end.setblocking(False)
    transport, notes = await loop.create_connection(Notes, sock=ours)
    transport.write(bytes(BEFORE))
    sending = loop.create_task(loop.sendfile(transport, file))
    await turns()
    assert not sending.done() and not transport.is_reading()
    return transport, notes, sending, peer


async def read_all(loop, peer):
    got = bytearray()
    while data := await loop.sock_recv(peer, 65536):
        got += data
    return got


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@scenario
async def a_transport_that_ends_before_the_file_begins_says_so(loop):
    import asyncio

    for how in ("close", "abort", "reset"):
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(b"file")
            transport, notes, sending, peer = await begun(loop, file)
            if how == "reset":
                reset(peer)
            else:
                getattr(transport, how)()
            if how == "close":
                assert await asyncio.wait_for(read_all(loop, peer), 30) == bytes(BEFORE), "what was written is delivered"
            await asyncio.wait([sending], timeout=30)
            assert isinstance(sending.exception(), ConnectionError), (how, sending)
            await until(lambda: notes.lost)
            assert [type(exc) for exc in notes.lost] == [ConnectionResetError if how == "reset" else type(None)]
            peer.close()


@scenario
async def who_gives_up_before_the_file_begins_gives_the_transport_back(loop):
    import asyncio

    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"file")
        transport, notes, sending, peer = await begun(loop, file)
        for write in (transport.write, lambda data: transport.writelines([data])):
            try:
                write(b"between")
            except RuntimeError as exc:
                assert "sendfile is in progress" in str(exc)
        try:
            await loop.sendfile(transport, file)
        except RuntimeError as exc:
            assert "already" in str(exc)
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled() and transport.is_reading()
        transport.write(b"after")
        peer.send(b"heard")
        await until(lambda: notes.got == b"heard")
        reading = loop.create_task(read_all(loop, peer))
        assert await loop.sendfile(transport, file, 1) == 3
        transport.close()
        assert await reading == bytes(BEFORE) + b"afterile"
        await until(lambda: notes.lost == [None])
        peer.close()


@scenario
async def no_file_is_sent_after_the_end_of_output(loop):
    for before in (False, True):
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(os.urandom(1000))
            transport, notes, sending, peer = await begun(loop, file)
            if before:
                assert len(await read_exactly(loop, peer, BEFORE + 1000)) == BEFORE + 1000
                await sending
            transport.write_eof()
            if before:
                sending = loop.create_task(loop.sendfile(transport, file))
            assert len(await read_all(loop, peer)) == (0 if before else BEFORE)
            try:
                await sending
            except RuntimeError as exc:
                assert "after write_eof" in str(exc)
            else:
                raise AssertionError("it was sent")
            assert transport.is_reading()
            transport.close()
            await until(lambda: notes.lost == [None])
            peer.close()


async def read_exactly(loop, peer, count):
    got = bytearray()
    while len(got) < count:
        got += await loop.sock_recv(peer, count - len(got))
    return got
