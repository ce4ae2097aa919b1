"""Stream transports that read no more, have nothing to write, and that nobody has: scenarios of transports.py. As asyncio's they are
collected, say so, and are closed."""

import asyncio
import contextlib
import gc
import itertools
import os
import socket
import sys
import tempfile
import threading
import warnings
import weakref

from endpoints import until
from transports import Recorder, closes, pair, scenario
from transports_accepted import accepted
from transports_buffered import Own


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def collected(*references):
    gc.collect()
    return all(reference() is None for reference in references)


class Lone(Recorder):
    """What holds nothing that it serves: nothing goes round."""

    def connection_made(self, transport):
        self.told.append("made")


@contextlib.contextmanager
def recorded():
    """What is warned of transports."""
    said = []
    with warnings.catch_warnings(record=True) as all_said:
        warnings.simplefilter("always")
        yield said
    said.extend(str(one.message) for one in all_said if "unclosed transport" in str(one.message))


async def pause(transport, protocol, theirs):
    transport.pause_reading()


async def pause_with_input(transport, protocol, theirs):
    transport.pause_reading()
    theirs.send(b"never read")
    await asyncio.sleep(0.01)


async def pause_after_an_end(transport, protocol, theirs):
    transport.write_eof()
    transport.pause_reading()


async def stay(transport, protocol, theirs):
    protocol.stays = True
    theirs.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in protocol.told)


async def write_all(transport, protocol, theirs):
    transport.pause_reading()
    transport.write(b"w" * 1_000_000)
    received = 0
    while received < 1_000_000:
        received += len(await asyncio.get_running_loop().sock_recv(theirs, 1 << 20))


KINDS = (pause, pause_with_input, pause_after_an_end, stay, write_all)


async def forgotten(loop, leave, family, kind=Recorder):
    """One that nobody has: what it was told, weak references to it and its protocol, its number, and the other end."""
    if family == "accepted":
        server, transport, protocol, theirs = await accepted(loop, kind)
        server.close()
    else:
        transport, protocol, theirs = await pair(loop, kind, family)
    await leave(transport, protocol, theirs)
    return protocol.told, [weakref.ref(transport), weakref.ref(protocol)], transport._sock_fd, theirs


@scenario
async def who_reads_no_more_is_collected_and_closed(loop):
    before = descriptors()
    for family in ("tcp", "unix", "accepted"):
        for leave in KINDS:
            told, references, fd, theirs = await forgotten(loop, leave, family)
            with recorded() as said:
                await until(lambda: collected(*references))
            assert len(said) == 1 and f"fd={fd} read=" in said[0] and "write=<idle, bufsize=0>" in said[0], (leave, said)
            # Where input was left, the kernel resets.
            with contextlib.suppress(ConnectionResetError) if leave is pause_with_input else contextlib.nullcontext():
                assert await loop.sock_recv(theirs, 10) == b"", leave
            assert loop._transport_of(fd) is None
            assert "lost" not in told, leave
            theirs.close()
    await until(lambda: descriptors() <= before)


@scenario
async def much_arrives_for_one_that_only_its_program_keeps(loop):
    """The receive of one that reads no more runs until something has arrived: that waits for who reads again."""
    for family, kind, length in itertools.product(("tcp", "unix", "accepted"), (Recorder, Own), (5000, 20_000)):
        data, sent = bytes(range(250)) * (length // 250), b""
        if family == "accepted":
            server, transport, protocol, theirs = await accepted(loop, kind)
            server.close()
        else:
            transport, protocol, theirs = await pair(loop, kind, family)
        for _ in range(3):
            transport.pause_reading()
            await asyncio.sleep(0.01)
            assert theirs.send(data) == length
            sent += data
            await asyncio.sleep(0.01)
            transport.resume_reading()
            await until(lambda protocol=protocol, sent=sent: len(protocol.data) >= len(sent))
            assert protocol.data == sent
        # And when nobody has it.
        transport.pause_reading()
        await asyncio.sleep(0.01)
        theirs.send(data)
        references = [weakref.ref(transport), weakref.ref(protocol)]
        with recorded() as said:
            del transport, protocol
            await until(lambda references=references: collected(*references))
        assert len(said) == 1, said
        with contextlib.suppress(ConnectionResetError):
            assert await loop.sock_recv(theirs, 10) == b""
        theirs.close()


@scenario
async def the_last_reference_is_enough(loop):
    gc.disable()
    try:
        for family in ("tcp", "unix", "accepted"):
            transport, protocol, theirs = None, None, None
            if family == "accepted":
                made = []
                server = await loop.create_server(lambda: made.append(Lone()) or made[-1], "127.0.0.1", 0)
                theirs = socket.socket()
                theirs.setblocking(False)
                await loop.sock_connect(theirs, server.sockets[0].getsockname())
                await until(lambda: made and made[0].told)
                transport = next(one for one in gc.get_objects() if getattr(one, "_protocol", None) is made[0])
                server.close()
            else:
                transport, protocol, theirs = await pair(loop, Lone, family)
            transport.pause_reading()
            reference = weakref.ref(transport)
            await asyncio.sleep(0.01)
            with recorded() as said:
                del transport
            assert len(said) == 1
            # It is there until nothing of its connection's runs.
            await until(lambda: reference() is None)
            assert await loop.sock_recv(theirs, 10) == b""
            theirs.close()
    finally:
        gc.enable()


@scenario
async def what_is_due_keeps_it(loop):
    transport, protocol, theirs = await pair(loop, family="unix")
    told, references = protocol.told, [weakref.ref(transport), weakref.ref(protocol)]
    transport.pause_reading()
    await asyncio.sleep(0.01)
    transport.write(b"o" * 5_000_000)
    # What was not due is again: nobody has it from here on, and nothing of that is lost.
    del transport, protocol
    gc.collect()
    await asyncio.sleep(0.01)
    gc.collect()
    received = 0
    with recorded() as said:
        while piece := await loop.sock_recv(theirs, 1 << 20):
            received += len(piece)
            gc.collect()
    assert received == 5_000_000 and len(said) == 1, (received, said)
    assert all(reference() is None for reference in references)
    assert "lost" not in told
    theirs.close()


@scenario
async def who_reads_is_kept(loop):
    transport, protocol, theirs = await pair(loop)
    transport.pause_reading()
    await asyncio.sleep(0.01)
    loop.call_soon(transport.resume_reading)
    told, lost, reference = protocol.told, protocol.lost, weakref.ref(transport)
    del transport, protocol
    await asyncio.sleep(0.01)
    assert not collected(reference)
    theirs.close()
    assert await lost is None and told == ["made", "eof", "lost"]
    await until(lambda: collected(reference))


@scenario
async def who_is_had_goes_on_as_ever(loop):
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, family=family)
        for nth in range(5):
            transport.pause_reading()
            await asyncio.sleep(0.005)
            gc.collect()
            theirs.send(b"%d" % nth)
            transport.write(b"paused")
            assert await loop.sock_recv(theirs, 10) == b"paused"
            assert loop._transport_of(transport._sock_fd) is transport
            assert "read=idle" in repr(transport) and transport.get_write_buffer_size() == 0
            gc.collect()
            loop.call_soon(transport.resume_reading)
            await until(lambda: protocol.data.endswith(b"%d" % nth))
        assert protocol.data == b"01234"
        transport.pause_reading()
        await asyncio.sleep(0.005)
        gc.collect()
        await closes(transport, protocol, theirs)
    # The end of its peer is noticed although it reads nothing.
    transport, protocol, theirs = await pair(loop)
    transport.pause_reading()
    await asyncio.sleep(0.005)
    gc.collect()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    assert isinstance(await protocol.lost, ConnectionResetError)


@scenario
async def another_thread_collects_it(loop):
    before = descriptors()
    for family in ("tcp", "accepted"):
        told, references, fd, theirs = await forgotten(loop, pause, family)
        await asyncio.sleep(0.01)
        with recorded() as said:
            # It is the collector's, while the loop waits for the thread.
            await asyncio.to_thread(gc.collect)
            assert all(reference() is None for reference in references)
        assert len(said) == 1 and f"fd={fd} read=idle" in said[0], said
        assert await loop.sock_recv(theirs, 10) == b""
        assert "lost" not in told
        theirs.close()
    # And by its last reference, there.
    transport, protocol, theirs = await pair(loop, Lone)
    transport.pause_reading()
    await asyncio.sleep(0.01)
    had, began, may_go = [transport], threading.Event(), threading.Event()

    def let_go():
        last = had.pop()
        began.set()
        may_go.wait(30)
        del last

    going = loop.run_in_executor(None, let_go)
    await until(began.is_set)
    with recorded() as said:
        del transport
        may_go.set()
        await going
        assert await loop.sock_recv(theirs, 10) == b""
    assert len(said) == 1
    theirs.close()
    await until(lambda: descriptors() <= before + 1)


@scenario
async def a_warning_that_is_an_error_closes_it_too(loop):
    unraisable, before = [], sys.unraisablehook
    sys.unraisablehook = unraisable.append
    try:
        for family in ("unix", "accepted"):
            told, references, fd, theirs = await forgotten(loop, pause, family)
            with warnings.catch_warnings():
                warnings.simplefilter("error", ResourceWarning)
                await until(lambda: collected(*references))
            assert await loop.sock_recv(theirs, 10) == b""
            theirs.close()
        assert any(isinstance(one.exc_value, ResourceWarning) for one in unraisable)
    finally:
        unraisable.clear()
        sys.unraisablehook = before


@scenario
async def who_comes_back_at_the_end_harms_nobody(loop):
    saved = []

    class Closing(Recorder):
        def __del__(self):
            self.transport.close()

    class Writing(Recorder):
        def __del__(self):
            self.transport.write(b"farewell")
            self.transport.resume_reading()
            saved.append(self.transport)

    for kind, last in ((Closing, b""), (Writing, b"farewell")):
        for family in ("tcp", "accepted"):
            told, references, fd, theirs = await forgotten(loop, pause, family, kind)
            await asyncio.sleep(0.01)
            with recorded() as said:
                gc.collect()
            assert len(said) <= 1
            assert (await loop.sock_recv(theirs, 10)) in (b"", last)
            while saved:
                saved.pop().abort()
            await until(lambda: collected(*references))
            theirs.close()
            assert told.count("lost") <= 1
    # One that does not say that it goes.
    transport, protocol, theirs = await pair(loop)

    class Silent(type(transport)):
        def __del__(self):
            pass

    await closes(transport, protocol, theirs)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    protocol = Recorder()
    transport = Silent(loop, ours, protocol)
    reference, lost = weakref.ref(transport), protocol.lost
    await asyncio.sleep(0)
    transport.pause_reading()
    await asyncio.sleep(0.01)
    del transport, protocol
    assert not collected(reference), "its connection would not know"
    theirs.close()
    reference().resume_reading()
    await lost
    await until(lambda: collected(reference))


@scenario
async def its_server_counts_it_no_more(loop):
    server, transport, protocol, theirs = await accepted(loop)
    references = [weakref.ref(transport), weakref.ref(protocol)]
    transport.pause_reading()
    server.close()
    waits = loop.create_task(server.wait_closed())
    del transport, protocol
    with recorded():
        await until(lambda: collected(*references))
    await asyncio.wait_for(waits, 30)
    theirs.close()


@scenario
async def a_file_that_is_sent_keeps_it(loop):
    transport, protocol, theirs = await pair(loop)
    transport.pause_reading()
    await asyncio.sleep(0.01)
    reference = weakref.ref(transport)
    with tempfile.TemporaryFile() as file:
        file.write(b"f" * 3_000_000)
        sending = loop.create_task(loop.sendfile(transport, file))
        del transport, protocol
        received = 0
        while received < 3_000_000:
            received += len(await loop.sock_recv(theirs, 1 << 20))
            gc.collect()
        assert await sending == 3_000_000
    del sending
    with recorded():
        await until(lambda: collected(reference))
    assert await loop.sock_recv(theirs, 10) == b""
    theirs.close()


@scenario
async def five_hundred_leave_nothing(loop):
    def transports():
        gc.collect()
        return sum(isinstance(one, asyncio.BaseTransport) for one in gc.get_objects())

    await forget(loop, 5)
    before = descriptors(), transports()
    await forget(loop, 500)
    await until(lambda: transports() <= before[1])
    await until(lambda: descriptors() <= before[0])


async def forget(loop, count):
    with recorded() as said:
        for nth in range(count):
            _, references, _, theirs = await forgotten(loop, KINDS[nth % 4], ("unix", "accepted")[nth % 2])
            theirs.close()
        await until(lambda: collected(*references))
    assert len(said) <= count
