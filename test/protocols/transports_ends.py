"""How stream transports of an event loop end: scenarios of transports.py."""

import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import socket
import termios
import time
import weakref

from endpoints import high, reuse, until
from transports import Echo, Recorder, closes, pair, reset, scenario


@scenario
async def an_output_that_ends(loop):
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, family=family)
        assert transport.can_write_eof()
        transport.write(b"a" * 500_000)
        transport.write_eof()
        received = 0
        while piece := await loop.sock_recv(theirs, 65536):
            received += len(piece)
        assert received == 500_000
        await loop.sock_sendall(theirs, b"still")
        await until(lambda: protocol.data == b"still")
        assert not transport.is_closing()
        theirs.close()
        assert await protocol.lost is None
        assert protocol.told[-2:] == ["eof", "lost"]


@scenario
async def who_stays_after_the_end_of_file_goes_on_writing(loop):
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, family=family)
        protocol.stays = True
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in protocol.told)
        await asyncio.sleep(0.01)
        transport.write(b"later")
        assert await loop.sock_recv(theirs, 10) == b"later"
        assert not transport.is_closing()
        transport.write_eof()
        assert await loop.sock_recv(theirs, 10) == b""
        await asyncio.sleep(0.01)
        assert "lost" not in protocol.told
        await closes(transport, protocol, theirs)
        assert protocol.told.count("eof") == 1


@scenario
async def an_abort_throws_away_what_was_written(loop):
    transport, protocol, theirs = await pair(loop, family="unix")
    transport.write(b"b" * 8_000_000)
    await asyncio.sleep(0.01)
    transport.abort()
    assert transport.is_closing() and protocol.told[-1] != "lost"
    assert await protocol.lost is None
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := await loop.sock_recv(theirs, 65536):
            received += len(piece)
    assert received < 8_000_000
    theirs.close()


@scenario
async def connection_lost_comes_with_the_next_callbacks(loop):
    for end in ("close", "abort"):
        transport, protocol, theirs = await pair(loop)
        sock = transport._sock
        getattr(transport, end)()
        assert not protocol.lost.done()
        for _ in range(3):
            await asyncio.sleep(0)
        assert protocol.lost.done() and sock.fileno() == -1
        theirs.close()


@scenario
async def a_reset_is_told(loop):
    for paused in (False, True):
        transport, protocol, theirs = await pair(loop)
        if paused:
            transport.pause_reading()
            await asyncio.sleep(0)
        reset(theirs)
        exc = await protocol.lost
        assert isinstance(exc, ConnectionResetError) and exc.errno == errno.ECONNRESET, exc
        assert protocol.told == ["made", "lost"]
        transport.write(b"in vain")


def await_arrival(sock):
    """Until the kernel has what was sent at the other end: what has not left yet is thrown away by a reset. The loop stands still."""
    until = time.monotonic() + 20
    while fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)) != bytes(4):
        assert time.monotonic() < until
        time.sleep(0.001)


@scenario
async def what_came_before_a_reset_is_delivered(loop):
    """As of a server that answers without having read all: its close resets the connection."""

    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            loop.call_later(0.001, self.transport.resume_reading)

    for kind, pauses in ((Recorder, False), (Recorder, True), (Slow, False)):
        transport, protocol, theirs = await pair(loop, kind)
        if pauses:
            transport.pause_reading()
            await asyncio.sleep(0)
        sent = theirs.send(b"d" * 100_000)
        await_arrival(theirs)
        reset(theirs)
        if pauses:
            await asyncio.sleep(0.02)
            assert protocol.told == ["made"]
            transport.resume_reading()
        exc = await protocol.lost
        assert isinstance(exc, ConnectionResetError), exc
        assert len(protocol.data) == sent, (kind, pauses, len(protocol.data), sent)


@scenario
async def a_writer_that_pauses_reading_hears_of_a_reset(loop):
    transport, protocol, theirs = await pair(loop)
    transport.pause_reading()
    await loop.sock_sendall(theirs, b"unread")
    reset(theirs)
    while not protocol.lost.done():
        transport.write(b"x")
        await asyncio.sleep(0.001)
    assert isinstance(await protocol.lost, OSError)


@scenario
async def what_cannot_be_served_leaves_nothing(loop):
    """What a factory answers is no protocol, or its server is closed by it."""

    def transports():
        gc.collect()
        return sum(isinstance(one, asyncio.Transport) for one in gc.get_objects())

    server = None

    def closes():
        server.close()
        return Recorder()

    loop.set_exception_handler(lambda loop, context: None)
    before = transports()
    for factory in (lambda: None, object, closes):
        server = await loop.create_server(factory, "127.0.0.1", 0)
        for _ in range(5):
            if server.sockets:
                with socket.create_connection(server.sockets[0].getsockname()) as client:
                    client.setblocking(False)
                    with contextlib.suppress(ConnectionResetError):
                        assert await loop.sock_recv(client, 1) == b""
        server.close()
        await asyncio.wait_for(server.wait_closed(), 20)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with contextlib.suppress(AttributeError):
            await loop.create_connection(lambda: None, *listening.getsockname())
            raise AssertionError("connected")
    loop.set_exception_handler(None)
    await until(lambda: transports() <= before)


@scenario
async def a_failed_write_is_told(loop):
    transport, protocol, theirs = await pair(loop, family="unix")
    protocol.stays = True
    theirs.close()
    await until(lambda: "eof" in protocol.told)
    transport.write(b"nobody")
    exc = await protocol.lost
    assert isinstance(exc, BrokenPipeError), exc


@scenario
async def what_a_close_could_not_deliver_is_told(loop):
    transport, protocol, theirs = await pair(loop)
    transport.write(b"c" * 20_000_000)
    await asyncio.sleep(0.01)
    transport.close()
    reset(theirs)
    assert isinstance(await protocol.lost, OSError)


@scenario
async def what_raises_costs_its_connection(loop):
    class Raising(Recorder):
        def data_received(self, data):
            raise ValueError(data)

        def eof_received(self):
            raise ValueError("eof")

    said = []
    loop.set_exception_handler(lambda loop, context: said.append(context))
    transport, protocol, theirs = await pair(loop, Raising)
    await loop.sock_sendall(theirs, b"x")
    exc = await protocol.lost
    assert isinstance(exc, ValueError) and exc.args == (b"x",)
    assert said[0]["message"] == "Fatal error: protocol.data_received() call failed."
    assert said[0]["exception"] is exc and said[0]["protocol"] is protocol and said[0]["transport"] is transport
    theirs.close()
    _, protocol, theirs = await pair(loop, Raising)
    theirs.shutdown(socket.SHUT_WR)
    assert (await protocol.lost).args == ("eof",)
    theirs.close()

    class LosesBadly(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ValueError("lost")

    transport, protocol, theirs = await pair(loop, LosesBadly)
    transport.close()
    await until(lambda: transport._sock is None and len(said) == 3)
    loop.set_exception_handler(None)
    theirs.close()


@scenario
async def who_has_no_such_method_is_told(loop):
    class Bare:
        def connection_made(self, transport):
            pass

        def connection_lost(self, exc):
            lost.set_result(exc)

    lost = loop.create_future()
    said = []
    loop.set_exception_handler(lambda loop, context: said.append(context))
    _, _, theirs = await pair(loop, Bare)
    await loop.sock_sendall(theirs, b"x")
    assert isinstance(await lost, AttributeError)
    loop.set_exception_handler(None)
    theirs.close()


@scenario
async def a_close_within_any_callback(loop):
    for where in ("connection_made", "data_received", "eof_received", "pause_writing"):

        class Closing(Recorder):
            pass

        def close(self, *args, where=where):
            getattr(Recorder, where)(self, *args)
            self.transport.write(b"bye" * 10)
            self.transport.close()

        setattr(Closing, where, close)
        transport, protocol, theirs = await pair(loop, Closing)
        if where == "pause_writing":
            transport.write(b"y" * 20_000_000)
        # It may have closed already.
        with contextlib.suppress(OSError):
            await loop.sock_sendall(theirs, b"x")
            theirs.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := await loop.sock_recv(theirs, 1_000_000):
                received += piece
            assert received.endswith(b"bye")
        await protocol.lost
        assert protocol.told[-1] == "lost" and protocol.told.count("lost") == 1
        theirs.close()


@scenario
async def a_socket_that_somebody_else_closes(loop):
    """The number may be used again; the transport reaches nobody by it."""
    transport, protocol, theirs = await pair(loop)
    transport._sock.close()
    others = [await pair(loop, Echo) for _ in range(5)]
    await until(lambda: protocol.lost.done())
    for other, its, end in others:
        await loop.sock_sendall(end, b"hello")
        assert await loop.sock_recv(end, 10) == b"hello"
        await closes(other, its, end)
    theirs.close()


@scenario
async def what_is_written_to_a_socket_that_is_closed_reaches_no_stranger(loop):
    for size in (6, 500_000):
        transport, protocol, theirs = await pair(loop, own=high)
        number = transport._sock.fileno()
        transport._sock.close()
        ends = reuse(number)
        transport.write(b"secret"[:size].ljust(size, b"!"))
        assert (await protocol.lost).errno == errno.EBADF
        try:
            raise AssertionError(ends[1].recv(100))
        except BlockingIOError:
            pass
        for end in (*ends, theirs):
            end.close()


@scenario
async def a_thousand_come_and_go(loop):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    alive = weakref.WeakSet()

    class Counted(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            alive.add(transport)
            alive.add(self)

    server = await loop.create_server(Counted, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()

    async def client(nth):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"q" * (nth % 300 + 1))
        await reader.readexactly(nth % 300 + 1)
        if nth % 3 == 0:
            writer.transport.abort()
        elif nth % 3 == 1:
            writer.write_eof()
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    await client(1)
    await until(lambda: not alive)
    gc.collect()
    before = descriptors()
    for _ in range(20):
        await asyncio.gather(*[client(nth) for nth in range(50)])
    await until(lambda: gc.collect() is not None and not alive)
    await until(lambda: descriptors() <= before)
    server.close()
    await server.wait_closed()


@scenario
async def who_writes_on_hears_of_a_reset_before_the_next_batch(loop):
    import erlang.streams

    for streams in (asyncio, erlang.streams):
        for _ in range(5):
            reader = streams.StreamReader(loop=loop)
            kind = asyncio.StreamReaderProtocol if streams is asyncio else streams.StreamProtocol
            transport, protocol, theirs = await pair(loop, lambda kind=kind, reader=reader: kind(reader, loop=loop))
            writer = streams.StreamWriter(transport, protocol, reader, loop)
            reset(theirs)
            try:
                async with asyncio.timeout(30):
                    while True:
                        # So much is sent at once. While a transport closes, `drain` lets others run, and no longer.
                        writer.write(bytes(100_000))
                        await writer.drain()
            except ConnectionError:
                assert transport._conn_lost == 1, (streams, transport._conn_lost)
            writer.close()
            await until(lambda: transport._sock is None)
