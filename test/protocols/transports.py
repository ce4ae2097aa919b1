"""What programs do with stream transports of an event loop: each scenario is run by a context's loop, and by loops of one's own in a
plain Python (test/asyncio/transports.py), on both backends."""

import asyncio
import contextlib
import contextvars
import socket
import struct

from endpoints import until

SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


class Recorder(asyncio.Protocol):
    """Puts down what it is told, and answers nothing."""

    def __init__(self):
        self.told = []
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()
        self.stays = False

    def connection_made(self, transport):
        self.transport = transport
        self.told.append("made")

    def data_received(self, data):
        assert type(data) is bytes
        self.data += data

    def eof_received(self):
        self.told.append("eof")
        return self.stays

    def pause_writing(self):
        self.told.append("pause")

    def resume_writing(self):
        self.told.append("resume")

    def connection_lost(self, exc):
        self.told.append("lost")
        self.lost.set_result(exc)


class Echo(Recorder):
    def data_received(self, data):
        self.transport.write(data)


async def pair(loop, kind=Recorder, family="tcp", own=lambda sock: sock):
    """A transport over what `own` makes of a socket, its protocol, and a socket at the other end."""
    if family == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
    ours = own(ours)
    ours.setblocking(False)
    theirs.setblocking(False)
    transport, protocol = await loop.connect_accepted_socket(kind, ours)
    return transport, protocol, theirs


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def closes(transport, protocol, theirs):
    transport.close()
    assert await protocol.lost is None
    theirs.close()
    await until(lambda: transport._sock is None)


@scenario
async def echo(loop):
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, Echo, family)
        for size in (1, 64, 20_000, 300_000):
            data = bytes(range(256)) * (size // 256 + 1)
            sending = loop.create_task(loop.sock_sendall(theirs, data))
            received = b""
            while len(received) < len(data):
                received += await loop.sock_recv(theirs, 65536)
            await sending
            assert received == data
        await closes(transport, protocol, theirs)
        assert protocol.told[0] == "made" and protocol.told[-1] == "lost"


@scenario
async def everything_bytes_like_is_written(loop):
    transport, protocol, theirs = await pair(loop)
    mutable = bytearray(b"two" * 2000)
    transport.write(b"one")
    transport.write(mutable)
    mutable[:] = b"x" * len(mutable)
    transport.write(memoryview(b"three"))
    transport.writelines([b"four", bytearray(b"five"), memoryview(b"six")])
    transport.writelines([])
    transport.write(b"")
    transport.close()
    received = b""
    while piece := await loop.sock_recv(theirs, 65536):
        received += piece
    assert received == b"one" + b"two" * 2000 + b"threefourfivesix"
    assert await protocol.lost is None
    theirs.close()


@scenario
async def wrong_arguments(loop):
    transport, protocol, theirs = await pair(loop)
    for wrong in ("text", 1, None, [b"x"]):
        with contextlib.suppress(TypeError):
            transport.write(wrong)
            raise AssertionError(wrong)
    for wrong in (["text"], 1):
        with contextlib.suppress(TypeError):
            transport.writelines(wrong)
            raise AssertionError(wrong)
    for low, high in ((2, 1), (-1, 1)):
        with contextlib.suppress(ValueError):
            transport.set_write_buffer_limits(high=high, low=low)
            raise AssertionError((low, high))
    transport.write_eof()
    transport.write_eof()
    for call in (lambda: transport.write(b"x"), lambda: transport.writelines([b"x"])):
        try:
            call()
            raise AssertionError("written after write_eof()")
        except RuntimeError as exc:
            assert "after write_eof()" in str(exc)
    await closes(transport, protocol, theirs)
    # What is written to one that is closed is lost, and no error.
    transport.abort()
    transport.close()
    assert transport.is_closing() and not transport.is_reading() and transport.get_protocol() is None


@scenario
async def a_paused_reader_is_told_nothing(loop):
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, family=family)
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        await loop.sock_sendall(theirs, b"x" * 10_000)
        theirs.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.02)
        assert protocol.data == b"" and protocol.told == ["made"]
        transport.resume_reading()
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.data == b"x" * 10_000 and protocol.told == ["made", "eof", "lost"]
        theirs.close()


@scenario
async def a_pause_within_data_received_holds_at_once(loop):
    class Once(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    transport, protocol, theirs = await pair(loop, Once)
    sending = loop.create_task(loop.sock_sendall(theirs, b"y" * 20_000_000))
    await until(lambda: protocol.data)
    for _ in range(20):
        before = len(protocol.data)
        await asyncio.sleep(0.001)
        assert len(protocol.data) == before
        transport.resume_reading()
        await until(lambda before=before: len(protocol.data) > before)
    sending.cancel()
    await closes(transport, protocol, theirs)


@scenario
async def a_paused_reader_holds_its_peer_up(loop):
    transport, protocol, theirs = await pair(loop, family="unix")
    transport.pause_reading()
    sending = loop.create_task(loop.sock_sendall(theirs, b"z" * 4_000_000))
    await asyncio.sleep(0.05)
    assert not sending.done()
    transport.resume_reading()
    await sending
    await until(lambda: len(protocol.data) == 4_000_000)
    await closes(transport, protocol, theirs)


@scenario
async def another_protocol(loop):
    transport, protocol, theirs = await pair(loop)
    other = Recorder()
    other.transport = transport

    def replace(data):
        Recorder.data_received(protocol, data)
        transport.set_protocol(other)

    protocol.data_received = replace
    transport.set_protocol(protocol)
    await loop.sock_sendall(theirs, b"one")
    await until(lambda: protocol.data)
    assert transport.get_protocol() is other
    await loop.sock_sendall(theirs, b"two")
    await until(lambda: other.data)
    assert (protocol.data, other.data) == (b"one", b"two")
    transport.close()
    await other.lost
    assert protocol.told == ["made"] and other.told == ["lost"]
    theirs.close()


class Buffered(asyncio.BufferedProtocol):
    """Has small buffers."""

    size = 7

    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()
        self.data = b""
        self.told = []

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        assert sizehint == -1
        self.buffer = bytearray(self.size)
        return self.buffer

    def buffer_updated(self, nbytes):
        assert 0 < nbytes <= self.size
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@scenario
async def buffers_of_the_protocols_own(loop):
    transport, protocol, theirs = await pair(loop, Buffered)
    data = bytes(range(256)) * 100
    await loop.sock_sendall(theirs, data)
    await until(lambda: len(protocol.data) == len(data))
    assert protocol.data == data
    await closes(transport, protocol, theirs)


@scenario
async def what_a_buffered_protocol_leaves_is_kept(loop):
    """It pauses, or another one takes over, in the middle of what has arrived at once."""

    class Fickle(Buffered):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.pause_reading()

    transport, protocol, theirs = await pair(loop, Fickle)
    await loop.sock_sendall(theirs, b"0123456789abcdef")
    await until(lambda: protocol.data)
    await asyncio.sleep(0.01)
    assert protocol.data == b"0123456"
    transport.resume_reading()
    await until(lambda: len(protocol.data) == 14)
    other = Recorder()
    transport.set_protocol(other)
    transport.resume_reading()
    await until(lambda: other.data == b"ef")
    await closes(transport, other, theirs)


@scenario
async def buffers_that_are_none(loop):
    class Empty(Buffered):
        size = 0

    class Not(Buffered):
        def get_buffer(self, sizehint):
            return b"constant"

    said = []
    loop.set_exception_handler(lambda loop, context: said.append(context))
    for kind in (Empty, Not):
        _, protocol, theirs = await pair(loop, kind)
        await loop.sock_sendall(theirs, b"x")
        assert await protocol.lost is not None
        theirs.close()
    loop.set_exception_handler(None)
    assert [context["message"] for context in said] == [
        "Fatal error: protocol.get_buffer() call failed.",
        "Fatal read error on socket transport",
    ]


@scenario
async def what_is_known_of_it(loop):
    transport, protocol, theirs = await pair(loop)
    sock = transport.get_extra_info("socket")
    assert sock.fileno() == transport._sock_fd and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert transport.get_extra_info("peername") == theirs.getsockname()
    assert transport.get_extra_info("sockname") == theirs.getpeername()
    assert transport.get_extra_info("nothing", 7) == 7
    assert f"fd={transport._sock_fd} read=polling" in repr(transport)
    assert isinstance(transport, asyncio.Transport)
    assert transport._loop is loop and transport._protocol is protocol
    peer = transport.get_extra_info("peername")
    await closes(transport, protocol, theirs)
    assert transport.get_extra_info("peername") == peer and "closed" in repr(transport)


@scenario
async def context_variables_are_those_of_its_making(loop):
    variable = contextvars.ContextVar("variable", default="outside")

    class Looking(Echo):
        def data_received(self, data):
            self.told.append(variable.get())
            super().data_received(data)

        def eof_received(self):
            self.told.append(variable.get())

        def connection_lost(self, exc):
            self.told.append(variable.get())
            super().connection_lost(exc)

    async def make():
        variable.set("made")
        return await pair(loop, Looking)

    _, protocol, theirs = await loop.create_task(make())
    await loop.sock_sendall(theirs, b"x")
    await loop.sock_recv(theirs, 1)
    theirs.close()
    await protocol.lost
    assert protocol.told == ["made", "made", "made", "made", "lost"] and variable.get() == "outside"


@scenario
async def who_writes_in_another_context_does_not_pause_the_protocol_there(loop):
    variable = contextvars.ContextVar("variable", default="outside")

    class Looking(Recorder):
        def pause_writing(self):
            self.told.append(f"pause {variable.get()}")

        def resume_writing(self):
            self.told.append(f"resume {variable.get()}")

        def data_received(self, data):
            # In its own one already.
            self.transport.write(bytes(8_000_000))

    async def make():
        variable.set("made")
        return await pair(loop, Looking)

    async def read_all():
        while len(await loop.sock_recv(theirs, 65536)):
            pass

    transport, protocol, theirs = await loop.create_task(make())
    transport.write(bytes(8_000_000))
    transport.set_write_buffer_limits(high=10_000_000)
    transport.set_write_buffer_limits(high=0)
    reading = loop.create_task(read_all())
    await until(lambda: len(protocol.told) == 3)
    await loop.sock_sendall(theirs, b"x")
    transport.set_write_buffer_limits(high=10)
    await until(lambda: len(protocol.told) == 5)
    transport.close()
    await protocol.lost
    await reading
    assert protocol.told == ["made", *["pause made", "resume made"] * 2, "lost"], protocol.told
    theirs.close()


@scenario
async def a_write_of_another_task_leaves_in_its_turn(loop):
    transport, protocol, theirs = await pair(loop)

    async def write():
        for piece in (b"head ", b"body"):
            transport.write(piece)

    await loop.create_task(write())
    assert await loop.sock_recv(theirs, 100) == b"head body", "two pieces, one send"
    await closes(transport, protocol, theirs)


@scenario
async def other_threads_are_refused(loop):
    transport, protocol, theirs = await pair(loop)

    def write():
        try:
            transport.write(b"x")
        except RuntimeError as exc:
            return str(exc)

    assert "thread" in await asyncio.to_thread(write)
    await asyncio.to_thread(loop.call_soon_threadsafe, transport.write, b"y")
    assert await loop.sock_recv(theirs, 1) == b"y"
    await closes(transport, protocol, theirs)


def run(name, scenario):
    """Run a scenario in the loop of the context; it sends "ok", or what went wrong."""
    import endpoints

    endpoints.SCENARIOS.update(SCENARIOS)
    endpoints.run(name, scenario)


def names():
    return list(SCENARIOS)


import transports_abandoned  # noqa: E402, F401
import transports_accepted  # noqa: E402, F401
import transports_buffered  # noqa: E402, F401
import transports_ends  # noqa: E402, F401
import transports_interrupted  # noqa: E402, F401
import transports_marks  # noqa: E402, F401
import transports_much  # noqa: E402, F401
import transports_numbers  # noqa: E402, F401
import transports_stock_streams  # noqa: E402, F401
import transports_tls  # noqa: E402, F401
