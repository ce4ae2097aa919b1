"""Stream transports whose protocols have buffers of their own: little is copied there, much the kernel writes there. Scenarios of
transports.py."""

import asyncio
import errno
import itertools
import mmap
import random
import socket

from endpoints import Interrupt, high, reuse, turns, until
from transports import Recorder, closes, pair, reset, scenario

# So that what comes next goes straight into the buffer.
MUCH = bytes(range(256)) * 40


class Own(asyncio.BufferedProtocol):
    """Has one buffer, and may do something else at its nth call of a method."""

    size = 100_000
    acts = {}

    def __init__(self):
        self.own = bytearray(self.size)
        self.told = []
        self.data = b""
        self.most = 0
        self.updates = 0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def act(self, method):
        # At most once, whatever becomes of it: a buffer may be asked for in vain.
        act = self.acts.pop((method, self.updates), None)
        return act(self) if act else None

    def get_buffer(self, sizehint):
        assert sizehint == -1
        answer = self.act("get_buffer")
        return self.own if answer is None else answer

    def buffer_updated(self, nbytes):
        self.data += self.own[:nbytes]
        self.most = max(self.most, nbytes)
        self.updates += 1
        self.act("buffer_updated")

    def eof_received(self):
        self.told.append("eof")

    def connection_lost(self, exc):
        self.told.append(("lost", type(exc), getattr(exc, "errno", None)))
        self.lost.set_result(exc)


async def gets(loop, protocol, theirs, data):
    before = len(protocol.data)
    await loop.sock_sendall(theirs, data)
    await until(lambda: len(protocol.data) >= before + len(data) or protocol.lost.done())


async def begin(loop, much, kind=Own, **options):
    """One that has got much, or little."""
    transport, protocol, theirs = await pair(loop, kind, **options)
    await gets(loop, protocol, theirs, MUCH if much else b"little")
    protocol.data, protocol.updates = b"", 0
    return transport, protocol, theirs


@scenario
async def much_goes_right_into_the_buffer(loop):
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await begin(loop, True, family=family)
        sent = 0
        # More than a buffer of the reactor's holds: it depends on the kernel how much is there at once.
        while protocol.most <= 16384:
            await gets(loop, protocol, theirs, MUCH * 6)
            sent += 6
            assert protocol.data == MUCH * sent
        for length in [1] * 12 + [5000, 1, 16384, 16406, 3] * 3:
            before = len(protocol.data)
            await gets(loop, protocol, theirs, MUCH[:length] + MUCH[length : 2 * length])
            assert protocol.data[before:] == MUCH[:length] + MUCH[length : 2 * length]
        await closes(transport, protocol, theirs)


@scenario
async def messages_of_known_lengths_fill_their_buffers(loop):
    class Framed(Own):
        """Has as much room as is missing of a message: its length, then that."""

        def connection_made(self, transport):
            self.transport = transport
            self.room, self.at, self.is_length, self.messages = bytearray(4), 0, True, []

        def get_buffer(self, sizehint):
            return memoryview(self.room)[self.at :]

        def buffer_updated(self, nbytes):
            self.at += nbytes
            if self.at < len(self.room):
                return
            if not self.is_length:
                self.messages.append(bytes(self.room))
            self.is_length = not self.is_length
            self.room, self.at = bytearray(4 if self.is_length else int.from_bytes(self.room, "big")), 0

    chance = random.Random(17)
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, Framed, family=family)
        for most in (50, 50_000, 50):
            messages = [chance.randbytes(chance.randint(1, most)) for _ in range(20)]
            sending = loop.create_task(
                loop.sock_sendall(theirs, b"".join(len(message).to_bytes(4, "big") + message for message in messages))
            )
            await until(lambda messages=messages: len(protocol.messages) == len(messages))
            await sending
            assert protocol.messages == messages
            protocol.messages = []
        await closes(transport, protocol, theirs)


def fails(answer):
    def act(protocol):
        raise answer

    return act


def gives(answer):
    return lambda protocol: answer


FAULTS = [
    ("get_buffer", gives(bytearray())),
    ("get_buffer", gives(b"constant")),
    ("get_buffer", gives(17)),
    ("get_buffer", gives("text")),
    ("get_buffer", gives(memoryview(bytearray(100))[::2])),
    ("get_buffer", fails(ValueError("no"))),
    ("get_buffer", fails(asyncio.CancelledError())),
    ("buffer_updated", fails(ValueError("no"))),
    ("buffer_updated", lambda protocol: protocol.transport.close()),
    ("buffer_updated", lambda protocol: protocol.transport.abort()),
    ("get_buffer", lambda protocol: protocol.transport.close()),
    ("get_buffer", lambda protocol: protocol.transport.abort()),
    ("get_buffer", lambda protocol: protocol.transport.pause_reading()),
]


async def what_becomes_of(loop, fault, much):
    said = []
    method, act = fault
    loop.set_exception_handler(lambda loop, context: said.append((context["message"], type(context["exception"]))))
    kind = type("Faulty", (Own,), {"acts": {}})
    transport, protocol, theirs = await begin(loop, much, kind)
    kind.acts = {(method, 1 if method == "buffer_updated" else 0): act}
    await loop.sock_sendall(theirs, b"more")
    await until(lambda: not kind.acts)
    await turns()
    theirs.close()
    if not transport.is_closing():
        transport.resume_reading()
    await protocol.lost
    loop.set_exception_handler(None)
    return said, protocol.data, protocol.told


async def as_asyncio(story, *args):
    """What comes of a story over asyncio's own transports."""

    def run():
        loop = asyncio.SelectorEventLoop()
        try:
            return loop.run_until_complete(asyncio.wait_for(story(loop, *args), 30))
        finally:
            loop.close()

    return await asyncio.to_thread(run)


@scenario
async def faults_of_buffers_end_as_asyncios_do(loop):
    for fault in FAULTS:
        expected = await as_asyncio(what_becomes_of, fault, True)
        for much in (False, True):
            seen = await what_becomes_of(loop, fault, much)
            assert seen == expected, (fault[0], FAULTS.index(fault), much, seen, expected)


class Padded(Own):
    """Its buffer begins anywhere in a page, and all of it but what has arrived stays as it was."""

    size = 200_000
    at = 0
    untouched = True

    def __init__(self):
        super().__init__()
        self.own = mmap.mmap(-1, self.size)

    def get_buffer(self, sizehint):
        self.own[:] = bytes([0x5A]) * self.size
        return memoryview(self.own)[self.at :]

    def buffer_updated(self, nbytes):
        end = self.at + nbytes
        self.data += self.own[self.at : end]
        self.most = max(self.most, nbytes)
        self.untouched &= (self.own[: self.at] + self.own[end:]).count(0x5A) == self.size - nbytes
        self.at = (self.at + 1) % 64


async def what_lies_around(loop, family):
    transport, protocol, theirs = await begin(loop, True, Padded, family=family)
    for length in [5000] * 64 + [16_384, 20_000, 70_000] * 64:
        protocol.data = b""
        data = (bytes(range(90)) * (length // 90 + 1))[:length]
        await gets(loop, protocol, theirs, data)
        assert protocol.data == data, length
    await closes(transport, protocol, theirs)
    return protocol.untouched, protocol.most > 16_384


@scenario
async def what_lies_around_what_has_arrived_stays_as_it_was(loop):
    for family in ("tcp", "unix"):
        expected = await as_asyncio(what_lies_around, family)
        assert await what_lies_around(loop, family) == expected == (True, True)


@scenario
async def another_protocol_gets_what_it_was_not_told_of(loop):
    for much in (False, True):
        for method, left in (("get_buffer", b"more"), ("buffer_updated", b"")):
            for kind in (Own, Recorder):
                fickle = type("Fickle", (Own,), {"acts": {}})
                transport, protocol, theirs = await begin(loop, much, fickle)
                other = kind()
                fickle.acts = {(method, len(left) == 0): lambda it, other=other: it.transport.set_protocol(other)}
                await loop.sock_sendall(theirs, b"more")
                await until(lambda protocol=protocol, other=other: len(protocol.data + other.data) == 4)
                assert other.data == left, (much, method, kind)
                # And back.
                transport.set_protocol(protocol)
                await gets(loop, protocol, theirs, MUCH)
                assert protocol.data.endswith(MUCH)
                await closes(transport, protocol, theirs)


@scenario
async def a_buffer_may_be_resized_whenever_it_is_not_filled(loop):
    class Resized(Own):
        def get_buffer(self, sizehint):
            self.own.extend(bytes(10_000 - len(self.own)))
            return self.own

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            del self.own[:]
            if self.updates % 3 == 0:
                self.own = bytearray(9000)

    Resized.size = 10_000
    transport, protocol, theirs = await pair(loop, Resized)
    for data in (b"little", MUCH * 5, b"little", MUCH * 9, b"little"):
        protocol.data = b""
        await gets(loop, protocol, theirs, data)
        assert protocol.data == data
    await closes(transport, protocol, theirs)


@scenario
async def a_stranger_is_not_received_from(loop):
    """The socket is closed within get_buffer, and its number is another's."""
    for much in (False, True):
        strangers = []

        def closes_it(protocol, strangers=strangers):
            number = protocol.transport._sock.fileno()
            protocol.transport._sock.close()
            strangers.extend(reuse(number))
            strangers[1].sendall(b"not for us")

        kind = type("Robbed", (Own,), {"acts": {}})
        transport, protocol, theirs = await begin(loop, much, kind, own=high)
        kind.acts = {("get_buffer", 0): closes_it}
        await loop.sock_sendall(theirs, b"more")
        await until(lambda strangers=strangers: strangers)
        transport.pause_reading()
        assert (await asyncio.wait_for(protocol.lost, 30)).errno == errno.EBADF
        assert strangers[0].recv(20) == b"not for us"
        for sock in (*strangers, theirs):
            sock.close()


@scenario
async def an_interrupt_amid_much_loses_nothing(loop):
    for method, nth, size in itertools.product(("get_buffer", "buffer_updated"), (0, 1, 3), (5000, 100_000)):
        kind = type("Interrupted", (Own,), {"acts": {}, "size": size})
        transport, protocol, theirs = await begin(loop, True, kind)
        kind.acts = {(method, nth): fails(Interrupt())}
        for _ in range(4):
            await gets(loop, protocol, theirs, MUCH)
        assert protocol.data == MUCH * 4 and not transport.is_closing(), (method, nth, len(protocol.data))
        assert not kind.acts or (method, nth) == ("buffer_updated", 0)
        await closes(transport, protocol, theirs)


class Story(Own):
    """Does what chance has, and tells as it goes what it was told."""

    def __init__(self):
        super().__init__()
        self.told.append(["", b""])
        self.plain = Plain(self)

    def came(self, what, data):
        if self.told[-1][0] != what:
            self.told.append([what, b""])
        self.told[-1][1] += data
        self.data += data

    def buffer_updated(self, nbytes):
        self.came("own", self.own[:nbytes])
        self.updates += 1
        self.act("buffer_updated")


class Plain(asyncio.Protocol):
    """Takes its place."""

    def __init__(self, of):
        self.of = of

    def data_received(self, data):
        self.of.came("plain", data)
        self.of.updates += 1
        self.of.transport.set_protocol(self.of)

    def eof_received(self):
        self.of.eof_received()

    def connection_lost(self, exc):
        self.of.connection_lost(exc)


def pauses(protocol):
    protocol.transport.pause_reading()
    asyncio.get_running_loop().call_later(0.001, lambda: protocol.transport.is_closing() or protocol.transport.resume_reading())


def resizes(protocol):
    protocol.own = protocol.own + b"x"
    protocol.own.extend(b"yz")


ACTS = {
    "pauses": pauses,
    "resizes": resizes,
    "writes": lambda protocol: protocol.transport.write(b"x" * 20),
    "writes much": lambda protocol: protocol.transport.write(bytes(50_000)),
    "ends output": lambda protocol: protocol.transport.write_eof(),
    "sets": lambda protocol: protocol.transport.set_protocol(protocol.plain),
    "closes": lambda protocol: protocol.transport.close(),
    "aborts": lambda protocol: protocol.transport.abort(),
    "fails": fails(ValueError("chance")),
}


async def by_chance(loop, seed):
    chance = random.Random(seed)
    size = chance.choice([7, 100, 5000, 20_000, 100_000])
    acts = {}
    for _ in range(chance.randint(1, 6)):
        method = chance.choice(["get_buffer", "buffer_updated"])
        # Who ends is the last; who sets another protocol does so when that is told next.
        names = list(ACTS)[: chance.choice([5, 6, 9])]
        name = chance.choice(names)
        if not (name == "sets" and method == "get_buffer"):
            acts[method, chance.randint(1, 12)] = lambda it, act=ACTS[name]: act(it) and None
    said = []
    loop.set_exception_handler(lambda loop, context: said.append((context["message"], type(context["exception"]))))
    kind = type("Story", (Story,), {"acts": acts, "size": size})
    transport, protocol, theirs = await pair(loop, kind, family="unix")
    answered = loop.create_task(everything(loop, theirs))
    for _ in range(chance.randint(1, 8)):
        # No buffer is filled exactly: whether it is asked for in vain then is told by nobody.
        length = chance.choice([chance.randint(1, 60), chance.randint(4000, 15_000)])
        length += length % size == 0
        data = chance.randbytes(length)
        if protocol.lost.done() or transport.is_closing():
            break
        await gets(loop, protocol, theirs, data)
    # At the end asyncio asks for a buffer that it does not fill.
    kind.acts = {}
    theirs.shutdown(socket.SHUT_WR)
    await protocol.lost
    await answered
    theirs.close()
    loop.set_exception_handler(None)
    return said, protocol.told


async def everything(loop, sock):
    try:
        while await loop.sock_recv(sock, 65536):
            pass
    except OSError:
        pass


@scenario
async def by_chance_they_behave_as_asyncios(loop):
    for seed in range(30):
        expected = await as_asyncio(by_chance, seed)
        seen = await asyncio.wait_for(by_chance(loop, seed), 30)
        assert seen == expected, (seed, shown(seen), shown(expected))


def shown(outcome):
    said, told = outcome
    return said, [(entry[0], len(entry[1])) if isinstance(entry, list) else entry for entry in told]


@scenario
async def what_came_before_a_reset_is_in_the_buffer(loop):
    for much in (False, True):
        transport, protocol, theirs = await begin(loop, much)
        transport.pause_reading()
        await loop.sock_sendall(theirs, MUCH)
        await turns()
        reset(theirs)
        await turns()
        transport.resume_reading()
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.data == MUCH
