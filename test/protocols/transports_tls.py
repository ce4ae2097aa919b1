"""TLS over stream transports: scenarios of transports.py. The peer speaks it by hand, over a socket."""

import asyncio
import contextvars
import os
import socket
import ssl

from endpoints import turns, until
from transports import Recorder, pair, scenario

# A key and its certificate, signed by itself, for these tests only.
CERTIFICATE = os.path.join(os.path.dirname(__file__), "localhost.pem")
MUCH = bytes(range(256)) * 4000
CALLED = ("connection_made", "data_received", "eof_received", "pause_writing", "resume_writing", "connection_lost")


def context(server_side):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    if server_side:
        made.load_cert_chain(CERTIFICATE)
    else:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


class Peer:
    """The other end of a connection, which does nothing of itself."""

    def __init__(self, loop, sock, server_side=True):
        self.loop, self.sock = loop, sock
        self.received, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context(server_side).wrap_bio(self.received, self.outgoing, server_side=server_side)

    async def flush(self):
        if data := self.outgoing.read():
            await self.loop.sock_sendall(self.sock, data)

    async def do(self, function, *args):
        while True:
            try:
                result = function(*args)
            except ssl.SSLWantReadError:
                await self.flush()
                data = await self.loop.sock_recv(self.sock, 65536)
                if not data:
                    raise ConnectionResetError("it ended without an end of TLS") from None
                self.received.write(data)
            else:
                await self.flush()
                return result

    async def send(self, data):
        await self.do(self.tls.write, data)

    async def read_all(self):
        """What comes until the end of TLS."""
        data = b""
        try:
            while more := await self.do(self.tls.read, 65536):
                data += more
        except ssl.SSLZeroReturnError:
            # So it is told once one has said that oneself.
            pass
        return data

    async def say_end(self):
        """No more comes from here, by TLS."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self.flush()


async def connected(loop, kind=Recorder, version=ssl.TLSVersion.TLSv1_3):
    """A client of ours, its protocol and its peer."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    peer = Peer(loop, theirs)
    ending = loop.create_task(peer.do(peer.tls.do_handshake))
    asked = context(False)
    asked.maximum_version = version
    transport, protocol = await loop.create_connection(kind, sock=ours, ssl=asked, server_hostname="localhost")
    await ending
    return transport, protocol, peer


async def received_by(transport, peer, data):
    """It has arrived, and its reader may be paused: what is encrypted waits."""
    await peer.send(data)
    await until(lambda: transport._ssl_protocol._incoming.pending >= len(data))


@scenario
async def tls_callbacks_run_in_the_context_of_the_connection(loop):
    variable = contextvars.ContextVar("variable", default="outside")

    seen = []

    class Looking(Recorder):
        pass

    def looking(name, method):
        def called(*args):
            seen.append((name, variable.get()))
            return method(*args)

        return called

    for name in CALLED:
        setattr(Looking, name, looking(name, getattr(Recorder, name)))

    async def make():
        variable.set("made")
        return await connected(loop, Looking)

    transport, protocol, peer = await loop.create_task(make())
    # Each by this task, whose context is another one.
    transport.pause_reading()
    await received_by(transport, peer, b"hello")
    transport.resume_reading()
    await until(lambda: protocol.data == b"hello")
    transport.set_write_buffer_limits(high=1000)
    while "pause" not in protocol.told:
        transport.write(MUCH)
    reading = loop.create_task(peer.read_all())
    await until(lambda: "resume" in protocol.told)
    transport.close()
    await reading
    await peer.say_end()
    assert await protocol.lost is None
    assert protocol.told == ["made", "pause", "resume", "eof", "lost"]
    assert {name for name, _ in seen} == set(CALLED) and {value for _, value in seen} == {"made"}, seen
    peer.sock.close()


@scenario
async def what_tls_has_received_is_nobodys_after_close(loop):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for resumes in (False, True):
            transport, protocol, peer = await connected(loop, version=version)
            transport.pause_reading()
            await received_by(transport, peer, b"too late")
            transport.close()
            if resumes:
                transport.resume_reading()
            # As TLS has it, each side says its end.
            await peer.send(b"later still")
            assert await peer.read_all() == b""
            await peer.say_end()
            assert await protocol.lost is None
            assert (protocol.data, protocol.told) == (b"", ["made", "eof", "lost"])
            peer.sock.close()


@scenario
async def what_tls_was_given_leaves_before_its_end(loop):
    """Even if the kernel takes no more, and the peer has said its end."""
    for end in ("close", "their end"):
        transport, protocol, peer = await connected(loop)
        while "pause" not in protocol.told:
            transport.write(MUCH)
        transport.write(MUCH)
        count = transport.get_write_buffer_size()
        if end == "close":
            transport.close()
        await peer.say_end()
        await until(lambda: "eof" in protocol.told or transport.is_closing())
        await turns()
        assert len(await peer.read_all()) >= max(count, len(MUCH))
        assert await protocol.lost is None
        peer.sock.close()


@scenario
async def who_pauses_until_the_connection_has_ended_gets_all_of_tls(loop):
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self):
            self.own, self.data, self.told = bytearray(1000), b"", []
            self.lost = loop.create_future()

        def get_buffer(self, sizehint):
            return self.own

        def buffer_updated(self, nbytes):
            self.data += self.own[:nbytes]

        def eof_received(self):
            self.told.append(len(self.data))

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    for kind in (Recorder, Buffered):
        transport, protocol, peer = await connected(loop, kind)
        transport.pause_reading()
        await received_by(transport, peer, MUCH[:50_000])
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: transport._ssl_protocol._eof_received)
        await turns()
        assert not protocol.lost.done()
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.data == MUCH[:50_000]
        assert protocol.told in (["made", "eof", "lost"], [50_000])
        peer.sock.close()


@scenario
async def who_pauses_until_the_connection_has_ended_can_close_tls(loop):
    transport, protocol, peer = await connected(loop)
    transport.pause_reading()
    await received_by(transport, peer, b"unread")
    peer.sock.shutdown(socket.SHUT_WR)
    await until(lambda: transport._ssl_protocol._eof_received)
    transport.close()
    assert await protocol.lost is None
    assert protocol.data == b""
    peer.sock.close()


@scenario
async def a_bytearray_is_filled_by_more_than_one_record(loop):
    class Buffered(asyncio.BaseProtocol):
        """One by its methods."""

        def __init__(self):
            self.own, self.data = bytearray(60_000), b""
            self.lost = loop.create_future()

        def get_buffer(self, sizehint):
            return self.own

        def buffer_updated(self, nbytes):
            self.data += self.own[:nbytes]
            # Which needs that nobody holds on to it.
            self.own.append(0)

        def eof_received(self):
            pass

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    transport, protocol, peer = await connected(loop, Buffered)
    transport.pause_reading()
    await received_by(transport, peer, MUCH[:50_000])
    transport.resume_reading()
    await until(lambda: len(protocol.data) == 50_000)
    assert protocol.data == MUCH[:50_000]
    transport.abort()
    await protocol.lost
    peer.sock.close()


@scenario
async def start_tls_answers_before_the_first_data(loop):
    class Starting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.starting = loop.create_task(self.start(transport))

        async def start(self, transport):
            self.tls = await loop.start_tls(transport, self, context(True), server_side=True)
            self.told.append("started")

        def data_received(self, data):
            self.told.append(data)

    transport, protocol, theirs = await pair(loop, Starting, "unix")
    peer = Peer(loop, theirs, server_side=False)

    def end_of_handshake():
        peer.tls.do_handshake()
        # Leaves with the last of the handshake.
        peer.tls.write(b"first")

    await peer.do(end_of_handshake)
    await until(lambda: b"first" in protocol.told)
    assert protocol.told == ["made", "started", b"first"]
    protocol.tls.abort()
    await protocol.lost
    theirs.close()


@scenario
async def what_a_reader_has_before_start_tls_is_tls(loop):
    import erlang.streams

    for start in (asyncio.start_server, erlang.streams.start_server):
        served = loop.create_future()

        async def serve(reader, writer, served=served):
            assert await reader.readline() == b"PROXY\n"
            await writer.start_tls(context(True))
            served.set_result(await reader.readline())
            writer.close()

        server = await start(serve, "127.0.0.1", 0)
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        peer = Peer(loop, client, server_side=False)
        # Leaves with the beginning of the handshake.
        peer.outgoing.write(b"PROXY\n")
        await peer.do(peer.tls.do_handshake)
        await peer.send(b"hello\n")
        assert await served == b"hello\n"
        client.close()
        server.close()
        await server.wait_closed()
