"""Scenarios of endpoints.py: datagram endpoints."""

import asyncio
import collections
import errno
import os
import socket
import tempfile

from endpoints import Interrupt, high, raised, reuse, scenario, spin, turns, until


class Datagrams:
    """Notes what a datagram endpoint tells; answers "echo ...", ends by "close", raises at "raise"."""

    def __init__(self):
        self.got, self.errors, self.marks, self.lost = [], [], [], []
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self.got.append((data, addr))
        if data.startswith(b"echo"):
            self.transport.sendto(data, addr)
        elif data == b"close":
            self.transport.close()
        elif data == b"raise":
            raise ZeroDivisionError

    def error_received(self, exc):
        self.errors.append(exc)

    def pause_writing(self):
        self.marks.append("pause")

    def resume_writing(self):
        self.marks.append("resume")

    def connection_lost(self, exc):
        self.lost.append(exc)


def named_pair():
    """Two datagram sockets, of which the first is connected to the second; asyncio tells by its name that there is a peer."""
    theirs, ours = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        theirs.bind(os.path.join(folder, "theirs"))
        ours.connect(theirs.getsockname())
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def nameless_pair():
    """Two datagram sockets that are connected to each other, and have no names."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setblocking(False)
    return ends


async def endpoint(loop, **options):
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, **options)
    assert protocol.transport is transport
    return transport, protocol


@scenario
async def datagrams_are_echoed(loop):
    import asyncio

    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        ours, heard = await endpoint(loop, local_addr=(host, 0))
        assert isinstance(ours, asyncio.DatagramTransport)
        name = ours.get_extra_info("sockname")
        assert ours.get_extra_info("socket").family == family and ours.get_extra_info("peername") is None
        peer = socket.socket(family, socket.SOCK_DGRAM)
        peer.bind((host, 0))
        peer.setblocking(False)
        sent = [b"echo %d" % nth for nth in range(100)] + [b"echo" + bytes(60000), b"", b"last"]
        for data in sent:
            peer.sendto(data, name)
            if data.startswith(b"echo"):
                assert await asyncio.wait_for(loop.sock_recvfrom(peer, 65536), 30) == (data, name)
        await until(lambda: len(heard.got) == len(sent))
        assert heard.got == [(data, peer.getsockname()) for data in sent], heard.got[-3:]
        ours.close()
        await until(lambda: heard.lost == [None])
        peer.close()


@scenario
async def sent_in_one_turn_in_order_however_it_is_sent(loop):
    ours, _ = await endpoint(loop, local_addr=("127.0.0.1", 0))
    theirs, heard = await endpoint(loop, local_addr=("127.0.0.1", 0))
    to = theirs.get_extra_info("sockname")
    kinds = [
        lambda data: ours.sendto(data, to),
        lambda data: ours.sendto(bytearray(data), ("127.0.0.1", to[1])),
        lambda data: ours.sendto(memoryview(data), to),
        lambda data: ours.sendto(data, ("localhost", to[1])),
        lambda data: ours.sendto(data, addr=to),
    ]
    all = [b"%d" % nth for nth in range(200)]
    for nth, data in enumerate(all):
        kinds[nth % len(kinds)](data)
    assert ours.get_write_buffer_size() == 0
    await until(lambda: len(heard.got) == len(all))
    assert [data for data, _ in heard.got] == all
    raised(TypeError, ours.sendto, "text", to)
    raised(TypeError, ours.sendto)
    ours.close()
    theirs.close()
    await turns()


@scenario
async def what_is_sent_when_it_is_over_goes_nowhere(loop):
    ours, heard = await endpoint(loop, local_addr=("127.0.0.1", 0))
    ours.close()
    ours.sendto(b"closed", ours.get_extra_info("sockname"))
    await until(lambda: heard.lost == [None])
    ours.sendto(b"lost", ("127.0.0.1", 9))
    assert ours.get_write_buffer_size() == 0


@scenario
async def what_is_changed_after_it_was_sent_is_not_what_was_sent(loop):
    ours, _ = await endpoint(loop, local_addr=("127.0.0.1", 0))
    theirs, heard = await endpoint(loop, local_addr=("127.0.0.1", 0))
    data = bytearray(b"before")
    ours.sendto(data, theirs.get_extra_info("sockname"))
    data[:] = b"after!"
    await until(lambda: heard.got)
    assert heard.got[0][0] == b"before"
    ours.close()
    theirs.close()
    await turns()


@scenario
async def empty_datagrams_as_each_python_has_them(loop):
    import sys

    theirs, heard = await endpoint(loop, local_addr=("127.0.0.1", 0))
    ours, _ = await endpoint(loop, remote_addr=theirs.get_extra_info("sockname"))
    ours.sendto(b"")
    ours.sendto(b"last")
    await until(lambda: heard.got and heard.got[-1][0] == b"last")
    assert len(heard.got) == (2 if sys.version_info >= (3, 13) else 1)
    ours.close()
    theirs.close()
    await turns()


@scenario
async def a_connected_endpoint(loop):
    gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    gone.bind(("127.0.0.1", 0))
    name = gone.getsockname()
    ours, heard = await endpoint(loop, remote_addr=name)
    assert ours.get_extra_info("peername") == name
    ours.sendto(b"one")
    ours.sendto(b"two", name)
    await turns()
    assert [gone.recv(10), gone.recv(10)] == [b"one", b"two"]
    raised(ValueError, ours.sendto, b"x", ("127.0.0.1", name[1] ^ 1))
    gone.close()
    # Nobody is there: it is told, and the endpoint goes on.
    ours.sendto(b"three")
    await until(lambda: heard.errors)
    assert isinstance(heard.errors[0], ConnectionRefusedError) and heard.errors[0].errno == 111
    assert not ours.is_closing()
    ours.abort()
    await until(lambda: heard.lost == [None])
    ours.sendto(b"four")


@scenario
async def a_datagram_that_cannot_be_sent_costs_itself(loop):
    theirs, heard = await endpoint(loop, local_addr=("127.0.0.1", 0))
    to = theirs.get_extra_info("sockname")
    ours, told = await endpoint(loop, local_addr=("127.0.0.1", 0))
    ours.sendto(b"one", to)
    ours.sendto(bytes(70000), to)
    ours.sendto(b"forbidden", ("255.255.255.255", to[1]))
    ours.sendto(b"two", to)
    await until(lambda: len(heard.got) == 2)
    assert [data for data, _ in heard.got] == [b"one", b"two"]
    assert [exc.errno for exc in told.errors] == [90, 13], told.errors
    assert not ours.is_closing() and told.lost == []
    free, _ = await endpoint(loop, local_addr=("127.0.0.1", 0), allow_broadcast=True)
    assert free.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
    for transport in (ours, theirs, free):
        transport.close()
    await turns()


@scenario
async def errors_that_are_answered_by_errors_leave_others_their_turn(loop):
    class Stubborn(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.sendto(b"forbidden", ("255.255.255.255", 9))

    ours, told = await loop.create_datagram_endpoint(Stubborn, local_addr=("127.0.0.1", 0))
    ours.sendto(b"forbidden", ("255.255.255.255", 9))
    await until(lambda: len(told.errors) > 10)
    await asyncio.sleep(0.01)
    ours.abort()
    await until(lambda: told.lost)


@scenario
async def a_socket_that_is_closed_is_nobody_elses(loop):
    for many in (False, True):
        ours, theirs = named_pair()
        ours = high(ours)
        ours.setblocking(False)
        number = ours.fileno()
        transport, told = await endpoint(loop, sock=ours)
        ours.close()
        ends = reuse(number)
        for _ in range(100 if many else 1):
            transport.sendto(b"secret")
        await until(lambda: told.errors)
        assert told.errors[0].errno == errno.EBADF
        raised(BlockingIOError, ends[1].recv, 100)
        transport.abort()
        await until(lambda: told.lost)
        for end in (*ends, theirs):
            end.close()


@scenario
async def an_endpoint_needs_one_of_our_loops(loop):
    class Pretends:
        __class__ = type(loop)

    from erlang._native import native

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        begin = native.datagrams().begin
        raised(TypeError, begin, None, Pretends(), None, collections.deque(), sock, False, True, False)


@scenario
async def a_callback_that_raises_is_told_of_and_the_next_one_is_called(loop):
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    try:
        ours, heard = await endpoint(loop, local_addr=("127.0.0.1", 0))
        to = ours.get_extra_info("sockname")
        for data in (b"raise", b"next", b"raise", b"last"):
            ours.sendto(data, to)
        await until(lambda: len(heard.got) == 4)
    finally:
        loop.set_exception_handler(None)
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError] * 2
    assert told[0]["transport"] is ours and told[0]["protocol"] is heard
    ours.close()
    await turns()


@scenario
async def nothing_is_delivered_after_close(loop):
    ours, heard = await endpoint(loop, local_addr=("127.0.0.1", 0))
    to = ours.get_extra_info("sockname")
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for data in (b"first", b"close", b"late", b"later"):
        peer.sendto(data, to)
    await until(lambda: heard.lost)
    assert [data for data, _ in heard.got] == [b"first", b"close"]
    assert ours.is_closing()
    peer.close()


@scenario
async def slow_callbacks_leave_others_their_turn(loop):
    heard, between = [], []

    class Slow(Datagrams):
        def datagram_received(self, data, addr):
            heard.append(data)
            spin(0.002)
            loop.call_soon(lambda: between.append(len(heard)))

    ours, _ = await loop.create_datagram_endpoint(Slow, local_addr=("127.0.0.1", 0))
    for nth in range(12):
        ours.sendto(b"%d" % nth, ours.get_extra_info("sockname"))
    await until(lambda: len(between) == 12)
    assert heard == [b"%d" % nth for nth in range(12)]
    assert between[0] < 12, between
    ours.close()
    await turns()


@scenario
async def unix_datagrams(loop):
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, name) for name in ("a", "b")]
        (ours, heard), (theirs, told) = [
            await endpoint(loop, local_addr=name, family=socket.AF_UNIX) for name in names
        ]
        ours.sendto(b"hello", names[1])
        ours.sendto(bytes(100000), names[1])
        await until(lambda: len(told.got) == 2)
        assert told.got == [(b"hello", names[0]), (bytes(100000), names[0])]
        nameless, _ = await endpoint(loop, remote_addr=names[1], family=socket.AF_UNIX)
        nameless.sendto(b"who")
        await until(lambda: len(told.got) == 3)
        assert told.got[2] == (b"who", None)
        for transport in (ours, theirs, nameless):
            transport.close()
        await turns()


@scenario
async def a_full_socket_pauses_writing_and_close_delivers(loop):
    for ours, theirs in (named_pair(), nameless_pair()):
        transport, told = await endpoint(loop, sock=ours)
        all = [b"%d " % nth + bytes(1000) for nth in range(1500)]
        for nth, data in enumerate(all):
            # However it is sent.
            transport.sendto(memoryview(data) if nth % 100 == 7 else data)
        assert told.marks == ["pause"] and transport.get_write_buffer_size() > 65536
        transport.close()
        assert told.lost == []
        got = []
        while len(got) < len(all):
            got.append(await loop.sock_recv(theirs, 2000))
        assert got == all
        await until(lambda: told.lost)
        assert told.marks == ["pause", "resume"] and told.lost == [None]
        theirs.close()


@scenario
async def reuse_address_is_taken_as_uvloop_takes_it(loop):
    import warnings

    for addresses in ((("127.0.0.1", 0),), ()):
        try:
            await loop.create_datagram_endpoint(Datagrams, *addresses, reuse_address=True)
        except ValueError as exc:
            assert "reuse_port" in str(exc)
        else:
            raise AssertionError("it was taken")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0), reuse_address=False)
    assert [warning.category for warning in warned] == [DeprecationWarning]
    transport.close()
    await turns()


@scenario
async def abort_sends_what_was_sent_before_and_drops_what_found_no_room(loop):
    ours, theirs = named_pair()
    transport, told = await endpoint(loop, sock=ours)
    transport.sendto(b"sent")
    transport.abort()
    await until(lambda: told.lost)
    assert theirs.recv(10) == b"sent"
    theirs.close()


@scenario
async def datagrams_sent_by_another_thread_leave_at_once(loop):
    import asyncio

    ours, theirs = named_pair()
    transport, _ = await endpoint(loop, sock=ours)
    theirs.setblocking(True)
    theirs.settimeout(30)

    def work():
        transport.sendto(b"x")
        return theirs.recv(10)

    assert await asyncio.to_thread(work) == b"x"
    transport.close()
    await turns()
    theirs.close()


@scenario
async def protocols_of_datagrams_can_be_replaced(loop):
    ours, first = await endpoint(loop, local_addr=("127.0.0.1", 0))
    second = Datagrams()
    second.transport = ours
    ours.set_protocol(second)
    assert ours.get_protocol() is second
    ours.sendto(b"x", ours.get_extra_info("sockname"))
    await until(lambda: second.got)
    assert first.got == []
    ours.close()
    await until(lambda: second.lost == [None])


@scenario
async def a_destructor_may_run_while_a_datagram_is_put_down(loop):
    import gc

    transport, protocol = await endpoint(loop, local_addr=("127.0.0.1", 0))
    failed = []

    class Leaving:
        def __init__(self):
            self.itself = self

        def __del__(self):
            try:
                transport.set_protocol(protocol)
            except BaseException as exc:
                failed.append(exc)

    loop.set_exception_handler(lambda loop, context: None)
    before = gc.get_threshold()
    gc.collect()
    try:
        for _ in range(50):
            Leaving()
            gc.set_threshold(1)
            # That this is no address is said by an exception, for which garbage is collected before Python 3.12.
            transport.sendto(b"x", ("\ud800", 9))
            gc.set_threshold(*before)
    finally:
        gc.set_threshold(*before)
    loop.set_exception_handler(None)
    assert not failed, failed
    transport.close()
    await until(lambda: protocol.lost)


@scenario
async def an_interrupt_loses_no_other_datagram(loop):
    class Interrupted(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            raise Interrupt

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind(("127.0.0.1", 0))
        theirs.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(Interrupted, local_addr=("127.0.0.1", 0))
        for nth in range(10):
            # The third is for all, which is not allowed.
            transport.sendto(b"x" * (nth + 1), ("255.255.255.255", 9) if nth == 2 else theirs.getsockname())
        await until(lambda: protocol.errors)
        assert protocol.errors[0].errno == errno.EACCES
        got = [len(await loop.sock_recv(theirs, 100)) for _ in range(9)]
        assert got == [1, 2, 4, 5, 6, 7, 8, 9, 10], got
        transport.close()
        await until(lambda: protocol.lost)
