"""Scenarios of endpoints.py: erlang.streams."""

import contextlib
import os
import random
import sys
import tempfile

from endpoints import scenario, turns, until


class Transport:
    """Notes when a reader wants it to pause."""

    def __init__(self):
        self.told = []

    def pause_reading(self):
        self.told.append("pause")

    def resume_reading(self):
        self.told.append("resume")


class Reading:
    """A reader that is fed by hand, and what has come of its reads."""

    def __init__(self, reader, loop):
        self.reader, self.loop, self.transport = reader, loop, Transport()
        reader.set_transport(self.transport)
        self.tasks, self.came = [], []

    def do(self, kind, *args):
        if kind == "limit":
            (self.reader._limit,) = args
        elif kind == "cancel":
            for task in self.tasks:
                task.cancel()
        elif kind in ("feed_data", "feed_eof", "set_exception"):
            try:
                getattr(self.reader, kind)(*args)
            except AssertionError as exc:
                self.came.append(("feed", str(exc)))
        else:
            task = self.loop.create_task(self.read(kind, args))
            self.tasks.append(task)

    async def read(self, kind, args):
        import asyncio

        try:
            if kind == "lines":
                self.came.append([line async for line in self.reader])
            else:
                self.came.append(await getattr(self.reader, kind)(*args))
        except asyncio.IncompleteReadError as exc:
            self.came.append(("incomplete", exc.partial, exc.expected))
        except asyncio.LimitOverrunError as exc:
            self.came.append(("overrun", str(exc), exc.consumed))
        except (Exception, asyncio.CancelledError) as exc:
            self.came.append((type(exc), str(exc)))

    def seen(self):
        return self.came, self.transport.told, self.reader.at_eof(), [task.done() for task in self.tasks]


SEPARATORS = [b"--", b"a", b"", b"\r\n", bytearray(b"b-")]
if sys.version_info >= (3, 13):
    SEPARATORS += [(b"\n", b"\r\n"), (b"\r\n", b"\n", b"\r"), (b"ab", b"b"), (), (b"a", b"")]


def steps(chance):
    """Some of what may be done to a reader, in some order."""
    for _ in range(chance.randint(1, 14)):
        kind = chance.choice(["feed"] * 8 + ["read"] * 9 + ["eof", "fail", "cancel", "limit"])
        if kind == "feed":
            data = bytes(chance.choice(b"ab\n\n\r--") for _ in range(chance.choice([0, 1, 2, 3, 10, 30])))
            yield "feed_data", chance.choice([bytes, bytearray, memoryview])(data)
        elif kind == "limit":
            yield "limit", chance.choice([1, 4, 8, 1000])
        elif kind == "eof":
            yield ("feed_eof",)
        elif kind == "fail":
            yield "set_exception", chance.choice([OSError(5, "x"), ConnectionResetError()])
        elif kind == "cancel":
            yield ("cancel",)
        else:
            yield chance.choice(
                [
                    ("read",),
                    ("read", chance.randint(-1, 20)),
                    ("readline",),
                    ("readexactly", chance.randint(-1, 20)),
                    ("readuntil",),
                    ("readuntil", chance.choice(SEPARATORS)),
                    ("read", 2**80),
                    ("lines",),
                ]
            )


@scenario
async def readers_behave_as_asyncios(loop):
    import asyncio

    import erlang.streams

    for seed in range(400):
        chance = random.Random(seed)
        limit = chance.choice([1, 4, 8, 65536])
        readings = [Reading(kind(limit, loop), loop) for kind in (asyncio.StreamReader, erlang.streams.StreamReader)]
        done = []
        for step in steps(chance):
            # One reads at a time: with more of them asyncio's may forget whom to wake. And it may look at a limit when it is woken.
            if (step[0].startswith("read") or step[0] in ("lines", "limit")) and not all(
                task.done() for reading in readings for task in reading.tasks
            ):
                continue
            if step[0] == "set_exception":
                # Woken for data before, it may miss it.
                await turns()
            done.append(step)
            for reading in readings:
                reading.do(*step)
            for _ in range(chance.choice([0, 1, 4])):
                await asyncio.sleep(0)
            assert readings[0].seen() == readings[1].seen(), (seed, done, readings[0].seen(), readings[1].seen())
        for reading in readings:
            reading.do("cancel")
        await asyncio.gather(*readings[0].tasks, *readings[1].tasks, return_exceptions=True)
        assert readings[0].came == readings[1].came, (seed, done, readings[0].came, readings[1].came)
        assert readings[0].transport.told == readings[1].transport.told, (seed, done)


@scenario
async def a_reader_that_fails_when_it_was_woken_is_told(loop):
    import asyncio

    import erlang.streams

    for read in (
        lambda reader: reader.read(),
        lambda reader: reader.readexactly(4),
        lambda reader: reader.readline(),
        lambda reader: reader.readuntil(b"x"),
        lambda reader: anext(aiter(reader)),
    ):
        reader = erlang.streams.StreamReader(loop=loop)
        reading = loop.create_task(read(reader))
        await asyncio.sleep(0)
        reader.feed_data(b"abc")
        reader.set_exception(ConnectionResetError())
        done, _ = await asyncio.wait([reading], timeout=30)
        assert done and isinstance(reading.exception(), ConnectionResetError)


@scenario
async def a_read_that_needs_no_waiting_is_there_at_once(loop):
    import erlang.streams

    reader = erlang.streams.StreamReader(loop=loop)
    reader.feed_data(b"line\nabcdrest")
    turned = []
    loop.call_soon(turned.append, 1)
    assert [await reader.readline(), await reader.readexactly(4), await reader.read(100)] == [b"line\n", b"abcd", b"rest"]
    assert turned == [], "nobody else has run"


@scenario
async def reads_are_coroutines(loop):
    import asyncio

    import erlang.streams

    reader = erlang.streams.StreamReader(loop=loop)
    assert isinstance(reader, asyncio.StreamReader)
    read = reader.readline()
    assert asyncio.iscoroutine(read)
    task = asyncio.create_task(read)
    waited = asyncio.create_task(asyncio.wait_for(reader.read(1), 30))
    await asyncio.sleep(0.01)
    reader.feed_data(b"line\n")
    assert await task == b"line\n"
    try:
        await waited
    except RuntimeError as exc:
        assert "already waiting" in str(exc)
    read = reader.read(1)
    reader.feed_data(b"xy")
    assert await read == b"x"
    try:
        await read
    except RuntimeError as exc:
        assert "already awaited" in str(exc)
    reader.read(1).close()
    try:
        await asyncio.wait_for(reader.readexactly(10), 0.01)
    except TimeoutError:
        pass
    assert await reader.readexactly(1) == b"y"
    assert "StreamReader" in repr(reader)


@scenario
async def servers_and_clients(loop):
    import asyncio

    import erlang.streams

    failed = []
    loop.set_exception_handler(lambda loop, context: failed.append(context))

    async def serve(reader, writer):
        assert isinstance(writer, asyncio.StreamWriter) and writer.get_extra_info("socket") is not None
        async for line in reader:
            if line == b"raise\n":
                raise ZeroDivisionError
            writer.write(line.upper())
            await writer.drain()
        writer.writelines([b"the ", b"end"])
        writer.close()
        await writer.wait_closed()

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        servers = [
            await erlang.streams.start_server(serve, "127.0.0.1", 0),
            await erlang.streams.start_unix_server(serve, path),
        ]
        port = servers[0].sockets[0].getsockname()[1]
        for connect in (
            lambda: erlang.streams.open_connection("127.0.0.1", port),
            lambda: erlang.streams.open_unix_connection(path),
        ):
            reader, writer = await connect()
            for nth in range(20):
                writer.write(b"line %d\n" % nth)
                assert await reader.readline() == b"LINE %d\n" % nth
            writer.write_eof()
            assert await reader.read() == b"the end" and reader.at_eof()
            writer.close()
            await writer.wait_closed()
            reader, writer = await connect()
            writer.write(b"raise\n")
            assert await reader.read() == b""
            writer.close()
        for server in servers:
            server.close()
            await server.wait_closed()
        await turns()
    loop.set_exception_handler(None)
    assert [type(context["exception"]) for context in failed] == [ZeroDivisionError] * 2


@scenario
async def a_slow_reader_is_waited_for(loop):
    import erlang.streams

    came, ready = [], loop.create_future()

    async def serve(reader, writer):
        await ready
        came.append(await reader.read())
        writer.close()

    server = await erlang.streams.start_server(serve, "127.0.0.1", 0)
    reader, writer = await erlang.streams.open_connection(*server.sockets[0].getsockname())
    sent = 0

    async def send():
        nonlocal sent
        for _ in range(64):
            writer.write(bytes(256 * 1024))
            sent += 256 * 1024
            await writer.drain()
        writer.write_eof()

    sending = loop.create_task(send())
    await turns(50)
    assert not sending.done()
    ready.set_result(None)
    await sending
    await until(lambda: came)
    assert len(came[0]) == sent
    writer.close()
    await writer.wait_closed()
    try:
        await writer.drain()
    except ConnectionResetError:
        pass
    else:
        raise AssertionError("the connection is gone")
    server.close()
    await server.wait_closed()
    await turns()


@scenario
async def writers_are_what_their_classes_say(loop):
    import asyncio

    import erlang.streams

    said = []

    class Says(erlang.streams.StreamWriter):
        def write(self, data):
            said.append(data)
            super().write(data)

        async def drain(self):
            said.append("drain")
            await super().drain()

    async def serve(reader, writer):
        writer.write(await reader.read())
        writer.close()

    server = await erlang.streams.start_server(serve, "127.0.0.1", 0)
    reader, writer = await erlang.streams.open_connection(*server.sockets[0].getsockname())
    says = Says(writer.transport, writer._protocol, reader, loop)
    says.write(b"said")
    await says.drain()
    assert said == [b"said", "drain"]

    class Other:
        is_closing = writer.transport.is_closing

        def write(self, data):
            said.append(("other", data))

    # As programs do to go on with TLS.
    writer._transport, before = Other(), writer.transport
    writer.write(b"secret")
    await writer.drain()
    assert said[-1] == ("other", b"secret"), "nothing by the transport that it had before"
    writer._transport = before
    writer.write_eof()
    assert await reader.read() == b"said"
    writer.close()
    await writer.wait_closed()
    server.close()
    await turns()


@scenario
async def writers_of_pipes_wait_for_their_readers(loop):
    import asyncio

    import erlang.streams

    readers = [None, asyncio.StreamReader(loop=loop), erlang.streams.StreamReader(loop=loop)]
    for reader in readers:
        ours, theirs = os.pipe()
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(theirs, "wb", 0)
        )
        writer = erlang.streams.StreamWriter(transport, protocol, reader, loop)
        writer.write(bytes(1000000))
        draining = loop.create_task(writer.drain())
        await turns()
        assert not draining.done()
        os.set_blocking(ours, False)
        got = 0
        while got < 1000000:
            with contextlib.suppress(BlockingIOError):
                got += len(os.read(ours, 65536))
            await asyncio.sleep(0)
        await draining
        writer.close()
        os.close(ours)
        await turns()


@scenario
async def whoever_drops_a_stream_has_no_connection(loop):
    import asyncio
    import gc
    import warnings
    import weakref

    import erlang.streams

    ended = []

    async def serve(reader, writer):
        ended.append(await reader.read())
        writer.close()

    server = await erlang.streams.start_server(serve, "127.0.0.1", 0)
    gc.collect()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            reader, writer = await erlang.streams.open_connection(*server.sockets[0].getsockname())
            writer.write(b"one")
            await turns()
            del writer
            await until(lambda: ended == [b"one"])
            assert await reader.read() == b""
            gone = []
            for _ in range(3):
                reader, writer = await erlang.streams.open_connection(*server.sockets[0].getsockname())
                writer.write(b"two")
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
                gone += [weakref.ref(one) for one in (reader, writer, writer._protocol)]
            del reader, writer
            await until(lambda: all(reference() is None for reference in gone))
    finally:
        gc.enable()
    server.close()
    await turns()
