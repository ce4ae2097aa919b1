"""Stream transports that serve asyncio's own readers, which are fed without Python code, and with the same results: each scenario is
gone through with asyncio's protocol, and with one that passes on what it receives in Python. Scenarios of transports.py."""

import asyncio
import contextlib
import gc
import random
import sys
import weakref
from unittest import mock

from endpoints import turns, until
from transports import pair, scenario

LIMIT = 2**16


class Passing(asyncio.StreamReaderProtocol):
    """Python code all the way."""

    def data_received(self, data):
        super().data_received(data)


class Peer:
    """A reader that a transport feeds, and the socket at the other end."""

    def __init__(self, loop, kind, limit=LIMIT, reader=asyncio.StreamReader):
        self.loop, self.kind = loop, kind
        self.reader = reader(limit, loop)
        self.failed = []

    async def __aenter__(self):
        def connected():
            self.protocol = self.kind(self.reader, loop=self.loop)
            return self.protocol

        self.loop.set_exception_handler(lambda _, context: self.failed.append(context))
        self.transport, _, self.theirs = await pair(self.loop, connected)
        return self

    async def __aexit__(self, *_):
        self.transport.close()
        await until(lambda: self.transport._sock is None)
        self.loop.set_exception_handler(None)
        self.theirs.close()

    async def send(self, data):
        await self.loop.sock_sendall(self.theirs, data)

    def calls(self):
        """What failed in the callbacks, as asyncio says it."""
        return [(context["message"], type(context["exception"]), str(context["exception"])) for context in self.failed]

    def seen(self):
        reader = self.reader
        waits = reader._waiter is not None
        return bytes(reader._buffer), waits, reader._paused, reader._eof, type(reader._transport), repr(reader._exception)


@contextlib.contextmanager
def called():
    """The names of what is called in Python meanwhile."""
    names = set()
    sys.setprofile(lambda frame, event, _: names.add(frame.f_code.co_name) if event == "call" else None)
    try:
        yield names
    finally:
        sys.setprofile(None)


FEEDS = {"data_received", "_stream_reader", "feed_data", "_wakeup_waiter"}


async def goes(loop, kind, go, **options):
    """What `go` answers, with such a protocol."""
    async with Peer(loop, kind, **options) as peer:
        return await go(peer)


async def same(loop, go, **options):
    """What `go` answers with both."""
    stock = await goes(loop, asyncio.StreamReaderProtocol, go, **options)
    passing = await goes(loop, Passing, go, **options)
    assert stock == passing, (stock, passing)
    return stock


@scenario
async def stock_readers_are_fed_without_python_code(loop):
    for kind, expected in ((asyncio.StreamReaderProtocol, set()), (Passing, FEEDS)):
        async with Peer(loop, kind) as peer:
            with called() as names:
                for _ in range(3):
                    await peer.send(b"line\n")
                    assert await peer.reader.readline() == b"line\n"
            assert names & FEEDS == expected, names


@scenario
async def stock_readers_of_servers_and_clients_are_fed_without_python_code(loop):
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    with called() as names:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.read() == b"line\n"
    assert not names & (FEEDS - {"_stream_reader", "_wakeup_waiter"}), names
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@scenario
async def stock_readers_get_what_python_code_would_give_them(loop):
    async def go(peer, seed):
        chance = random.Random(seed)
        sent, read, steps = b"", b"", []
        for _ in range(chance.randrange(1, 12)):
            reading = None
            if chance.random() < 0.5:
                reading = loop.create_task(peer.reader.read(chance.choice([1, 5, 4000])))
                await turns(1)
                if chance.random() < 0.3:
                    # What comes in the same turn finds a waiter that is cancelled.
                    reading.cancel()
            data = chance.randbytes(chance.choice([1, 3, 40, 3000]))
            await peer.send(data)
            sent += data
            if reading is not None:
                (got,) = await asyncio.gather(reading, return_exceptions=True)
                steps.append(type(got))
                read += got if isinstance(got, bytes) else b""
            await until(lambda: len(read) + len(peer.reader._buffer) == len(sent))
            steps.append(peer.seen())
        assert sent == read + peer.reader._buffer
        return steps, peer.calls()

    for seed in range(30):
        await same(loop, lambda peer, seed=seed: go(peer, seed))


@scenario
async def stock_readers_wake_whoever_waits(loop):
    async def go(peer, cancelled):
        waiter = peer.reader._waiter = loop.create_future()
        if cancelled:
            waiter.cancel()
        await peer.send(b"one")
        await until(lambda: peer.reader._buffer == b"one")
        assert peer.reader._waiter is None and waiter.done() and waiter.cancelled() == cancelled
        # Nobody waits.
        await peer.send(b"two")
        await until(lambda: peer.reader._buffer == b"onetwo")
        return peer.calls()

    for cancelled in (False, True):
        assert await same(loop, lambda peer, cancelled=cancelled: go(peer, cancelled)) == []


@scenario
async def stock_readers_pause_beyond_twice_their_limit(loop):
    async def go(peer):
        await peer.send(b"x" * 20)
        await until(lambda: len(peer.reader._buffer) == 20)
        assert not peer.reader._paused and peer.transport.is_reading()
        await peer.send(b"y")
        await until(lambda: peer.reader._paused)
        assert not peer.transport.is_reading()
        assert await peer.reader.read(11) == b"x" * 11
        assert not peer.reader._paused and peer.transport.is_reading()
        return peer.seen()

    for limit in (10, 10.25, True * 10):
        await same(loop, go, limit=limit)


@scenario
async def stock_readers_forget_what_cannot_pause(loop):
    class Stuck:
        def __init__(self, exc):
            self.exc = exc

        def pause_reading(self):
            raise self.exc

    async def go(peer, exc):
        peer.reader._transport = Stuck(exc)
        await peer.send(b"x" * 21)
        await until(lambda: len(peer.reader._buffer) == 21 and (peer.reader._transport is None or peer.failed))
        return peer.calls(), peer.reader._transport is None, peer.reader._paused

    assert await same(loop, lambda peer: go(peer, NotImplementedError()), limit=10) == ([], True, False)
    failed, gone, _ = await same(loop, lambda peer: go(peer, LookupError("no")), limit=10)
    assert failed == [("Fatal error: protocol.data_received() call failed.", LookupError, "no")] and not gone


@scenario
async def stock_readers_whose_buffer_is_looked_at_fail_as_in_python(loop):
    async def go(peer):
        peer.reader.feed_data(b"there")
        with memoryview(peer.reader._buffer):
            await peer.send(b"more")
            await until(lambda: peer.failed)
            assert peer.transport.is_closing()
        return peer.calls(), bytes(peer.reader._buffer)

    (failed,), there = await same(loop, go)
    assert failed[1] is BufferError and there == b"there"


@scenario
async def stock_readers_that_have_ended_fail_as_in_python(loop):
    async def go(peer):
        peer.reader.feed_eof()
        await peer.send(b"late")
        await until(lambda: peer.failed)
        return peer.calls()

    ((_, kind, text),) = await same(loop, go)
    assert (kind, text) == (AssertionError, "feed_data after feed_eof")


@scenario
async def stock_readers_that_are_gone_cost_nothing(loop):
    async def go(peer):
        peer.reader = None
        await turns()
        assert peer.protocol._stream_reader is None
        await peer.send(b"nobody reads")
        await turns()
        return peer.calls(), peer.transport.is_closing()

    assert await same(loop, go) == ([], False)


@scenario
async def readers_that_are_not_stock_are_called(loop):
    class Subclass(asyncio.StreamReader):
        def feed_data(self, data):
            super().feed_data(data.upper())

    class Quiet(asyncio.StreamReader):
        def _wakeup_waiter(self):
            self.woken = True
            super()._wakeup_waiter()

    async def read(peer):
        await peer.send(b"text\n")
        return await peer.reader.readline()

    assert await same(loop, read, reader=Subclass) == b"TEXT\n"

    async def is_woken(peer):
        return await read(peer), peer.reader.woken

    assert await same(loop, is_woken, reader=Quiet) == (b"text\n", True)

    async def is_shadowed(peer):
        reader = peer.reader
        reader.feed_data = lambda data: asyncio.StreamReader.feed_data(reader, data[::-1])
        await peer.send(b"\ntxet")
        return await reader.readline()

    assert await same(loop, is_shadowed) == b"text\n"

    async def is_patched(peer):
        function = asyncio.StreamReader.feed_data
        with mock.patch.object(asyncio.StreamReader, "feed_data", lambda reader, data: function(reader, data + data)):
            await peer.send(b"text\n")
            return await peer.reader.readexactly(10)

    assert await same(loop, is_patched) == b"text\ntext\n"

    async def holds_something_else(peer):
        peer.reader._buffer = mock.Mock(wraps=bytearray())
        await peer.send(b"text")
        await until(lambda: peer.failed or peer.reader._buffer.extend.called)
        return peer.reader._buffer.extend.call_args.args, [kind for _, kind, _ in peer.calls()]

    assert await same(loop, holds_something_else) == ((b"text",), [TypeError])


@scenario
async def what_a_reader_asks_of_python_code_may_change_the_protocol(loop):
    async def go(peer, other, answers):
        class Looking(asyncio.StreamReader):
            looked = False

            @property
            def _eof(self):
                # `feed_data` looks here first.
                if answers and not self.looked:
                    self.looked = True
                    peer.transport.set_protocol(other)
                return False

            @_eof.setter
            def _eof(self, eof):
                pass

        peer.reader = Looking(LIMIT, loop)
        peer.protocol._stream_reader_wr = weakref.ref(peer.reader)
        await peer.send(b"one")
        await until(lambda: peer.reader._buffer == b"one")
        return peer.calls(), bytes(peer.reader._buffer)

    for answers in (False, True):
        other = asyncio.Protocol()
        assert await same(loop, lambda peer, other=other, answers=answers: go(peer, other, answers)) == ([], b"one")

    async def is_called_all_the_same(peer):
        class Leaving(asyncio.StreamReader):
            # No bytearray: Python code has to do it, that of the protocol that was there.
            @property
            def _buffer(self):
                peer.transport.set_protocol(asyncio.Protocol())
                gc.collect()
                return self.there

            @_buffer.setter
            def _buffer(self, there):
                self.there = Bytes(there)

        class Bytes(bytearray):
            pass

        peer.reader = Leaving(LIMIT, loop)
        peer.protocol._stream_reader_wr = weakref.ref(peer.reader)
        peer.protocol = None
        await peer.send(b"one")
        await until(lambda: peer.reader.there == b"one" or peer.failed)
        return peer.calls(), bytes(peer.reader.there)

    assert await same(loop, is_called_all_the_same) == ([], b"one")


@scenario
async def futures_are_asyncios(loop):
    future = loop.create_future()
    assert type(future) is asyncio.Future and future.get_loop() is loop and not future.done()
    future.cancel()
    with called() as names:
        await asyncio.sleep(0.001)
    assert not names & {"create_future", "get_debug"}, names
    with mock.patch("asyncio.futures.Future") as another:
        assert loop.create_future() is another.return_value
        another.assert_called_once_with(loop=loop)
    loop.set_debug(not loop.get_debug())
    assert loop.get_debug() == loop._debug
    loop.set_debug(not loop.get_debug())
