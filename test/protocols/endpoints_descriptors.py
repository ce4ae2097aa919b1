"""Scenarios of endpoints.py: who waits for descriptors."""

import os
import socket
import tempfile

from endpoints import high, pair, raised, scenario, spin, turns


@scenario
async def readers_are_replaced_and_removed(loop):
    ours, theirs = pair()
    heard = []
    assert loop.add_reader(ours, heard.append, "one") is None
    first = loop._add_reader(ours.fileno(), heard.append, "two")
    assert first.__class__.__name__ == "Handle" and not first.cancelled()
    second = loop._add_reader(ours.fileno(), heard.append, "three")
    assert first.cancelled() and not second.cancelled()
    theirs.send(b"x")
    await turns()
    assert set(heard) == {"three"} and len(heard) > 2, heard
    assert loop.remove_reader(ours) is True and second.cancelled()
    assert loop.remove_reader(ours) is False
    del heard[:]
    await turns()
    assert heard == []
    loop.add_writer(ours, heard.append, "room")
    loop.add_reader(ours, heard.append, "input")
    await turns()
    assert heard[:2] == ["input", "room"], heard
    assert loop.remove_writer(ours) is True and loop.remove_writer(ours) is False
    del heard[:]
    await turns()
    assert set(heard) == {"input"}, heard
    loop.remove_reader(ours)
    ours.close()
    theirs.close()


@scenario
async def a_handle_cancelled_by_itself_is_told_no_more(loop):
    ours, theirs = pair()
    heard = []
    handle = loop._add_reader(ours.fileno(), heard.append, 1)
    theirs.send(b"x")
    await turns()
    assert heard
    handle.cancel()
    del heard[:]
    await turns()
    assert heard == [] and loop.remove_reader(ours) is False
    ours.close()
    theirs.close()


@scenario
async def what_cannot_be_waited_for(loop):
    with tempfile.TemporaryFile() as file:
        raised(PermissionError, loop.add_reader, file, print)
        assert raised(PermissionError, loop.add_writer, file.fileno(), print).errno == 1
        assert loop.remove_reader(file) is False
    for wrong in (-1, object(), 1.5, "1"):
        raised(ValueError, loop.add_reader, wrong, print)
        raised(ValueError, loop.remove_writer, wrong)
    closed = high(socket.socket())
    number = closed.fileno()
    closed.close()
    assert raised(OSError, loop.add_reader, number, print).errno == 9
    raised(OSError, loop.add_reader, 2**31 - 1, print)


@scenario
async def a_closed_object_is_removed(loop):
    ours, theirs = pair()
    loop.add_reader(ours, print)
    ours.close()
    assert loop._remove_reader(ours) is True
    raised(ValueError, loop._remove_reader, ours)
    theirs.close()


@scenario
async def a_number_that_is_used_again_is_another_descriptors(loop):
    heard = []
    for nth in range(20):
        ours, theirs = pair()
        number = ours.fileno()
        loop.add_reader(number, heard.append, "old")
        loop.add_writer(number, heard.append, "old writer")
        await turns(1)
        theirs.send(b"x")
        # Closed although it is waited for, and its number is at once another's; sometimes it is open elsewhere.
        kept = os.dup(number) if nth % 2 else os.open(os.devnull, os.O_RDONLY)
        new, news = pair()
        os.dup2(new.fileno(), number)
        # What was ready before is told still.
        await turns(1)
        del heard[:]
        if nth % 2 == 0:
            await turns()
            assert heard == [], len(heard)
        loop.add_reader(number, heard.append, "new")
        await turns()
        assert heard == [], len(heard)
        news.send(b"x")
        await turns()
        assert set(heard) == {"new"}, set(heard)
        assert loop.remove_reader(number) is True
        assert loop.remove_writer(number) is False
        os.close(kept)
        for end in (ours, theirs, new, news):
            end.close()


@scenario
async def copies_of_one_descriptor(loop):
    ours, theirs = pair()
    copy = os.dup(ours.fileno())
    heard = []
    loop.add_reader(ours, heard.append, "input")
    loop.add_writer(copy, heard.append, "room")
    await turns()
    assert set(heard) == {"room"}
    theirs.send(b"x")
    await turns()
    assert set(heard) == {"room", "input"}
    loop.remove_writer(copy)
    os.close(copy)
    del heard[:]
    await turns()
    assert set(heard) == {"input"}
    loop.remove_reader(ours)
    ours.close()
    theirs.close()


@scenario
async def an_end_wakes_reader_and_writer(loop):
    ours, theirs = pair()
    try:
        while True:
            ours.send(bytes(65536))
    except BlockingIOError:
        pass
    heard = []
    loop.add_reader(ours, heard.append, "input")
    loop.add_writer(ours, heard.append, "room")
    await turns()
    assert heard == []
    theirs.close()
    await turns()
    assert set(heard) == {"input", "room"}
    loop.remove_reader(ours)
    loop.remove_writer(ours)
    ours.close()


@scenario
async def a_busy_loop_runs_a_reader_once_for_each_look(loop):
    """A callback that waits in a long batch is not made ready once more."""
    ours, theirs = pair()
    got, wrong, busy = [], [], []

    def read():
        try:
            got.append(ours.recv(1))
        except BlockingIOError:
            wrong.append(1)

    def work():
        spin(0.0001)
        if busy:
            loop.call_soon(work)

    busy.append(1)
    for _ in range(20):
        loop.call_soon(work)
    loop.add_reader(ours, read)
    for nth in range(30):
        theirs.send(b"x")
        while len(got) <= nth:
            await turns(0)
    busy.clear()
    await turns()
    assert wrong == [], len(wrong)
    loop.remove_reader(ours)
    ours.close()
    theirs.close()


@scenario
async def more_than_one_look_takes(loop):
    ends = [pair() for _ in range(300)]
    heard = set()

    def read(nth):
        ends[nth][0].recv(1)
        heard.add(nth)

    for nth, (ours, theirs) in enumerate(ends):
        loop.add_reader(ours, read, nth)
        theirs.send(b"x")
    while len(heard) < len(ends):
        await turns(1)
    for ours, theirs in ends:
        loop.remove_reader(ours)
        ours.close()
        theirs.close()


@scenario
async def an_operation_is_cancelled_and_its_socket_closed_at_once(loop):
    import asyncio

    for _ in range(20):
        ours, theirs = pair()
        waits = loop.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        waits.cancel()
        number = ours.fileno()
        ours.close()
        new, news = pair()
        if new.fileno() == number:
            second = loop.create_task(loop.sock_recv(new, 10))
            await turns(1)
            news.send(b"x")
            assert await asyncio.wait_for(second, 20) == b"x"
        try:
            await waits
        except asyncio.CancelledError:
            pass
        for end in (theirs, new, news):
            end.close()


@scenario
async def a_descriptor_of_a_transport_is_refused(loop):
    import asyncio

    ours, theirs = pair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    for method, args in (("add_reader", (print,)), ("add_writer", (print,)), ("remove_reader", ()), ("remove_writer", ())):
        said = raised(RuntimeError, getattr(loop, method), ours.fileno(), *args)
        assert "is used by transport" in str(said), said
    try:
        await loop.sock_recv(ours, 1)
    except RuntimeError as exc:
        assert "is used by transport" in str(exc), exc
    transport.abort()
    await turns()
    theirs.close()
