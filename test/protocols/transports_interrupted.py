"""What becomes of stream transports whose callbacks, or what calls these, are interrupted: scenarios of transports.py. What is
meant to end a loop ends the run of one's own, which is begun again; a context says so and goes on."""

import asyncio
import contextlib
import errno
import itertools
import socket
import sys
from asyncio import constants

from erlang._openings import Openings
from endpoints import Interrupt, until
from transports import Buffered, Echo, Recorder, closes, pair, scenario


@contextlib.contextmanager
def interrupted(of, method):
    """The next call of a method of an object is interrupted before it begins."""
    genuine = getattr(of, method)

    def once(*args, **kwargs):
        setattr(of, method, genuine)
        raise Interrupt

    setattr(of, method, once)
    try:
        yield
    finally:
        delattr(of, method)


@scenario
async def an_interrupted_buffer_loses_nothing(loop):
    for method in ("get_buffer", "buffer_updated"):
        for nth in (1, 2, 5):

            class Interrupted(Buffered):
                calls = 0

            def interrupt(self, *args, nth=nth, method=method):
                answer = getattr(Buffered, method)(self, *args)
                self.calls += 1
                if self.calls == nth:
                    raise Interrupt
                return answer

            setattr(Interrupted, method, interrupt)
            transport, protocol, theirs = await pair(loop, Interrupted)
            data = bytes(range(60))
            await loop.sock_sendall(theirs, data)
            await until(lambda: len(protocol.data) == len(data))
            assert protocol.data == data, (method, nth, protocol.data)
            assert not transport.is_closing() and protocol.calls > nth
            await closes(transport, protocol, theirs)


@scenario
async def an_interrupted_eof_received_is_called_again(loop):
    for stays in (False, True):

        class Interrupted(Recorder):
            def eof_received(self):
                self.told.append("eof")
                if self.told.count("eof") == 1:
                    raise Interrupt
                return stays

        transport, protocol, theirs = await pair(loop, Interrupted)
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: protocol.told.count("eof") == 2)
        if stays:
            transport.write(b"still")
            assert await loop.sock_recv(theirs, 10) == b"still"
            await closes(transport, protocol, theirs)
        else:
            assert await protocol.lost is None
        assert protocol.told.count("eof") == 2
        theirs.close()


@scenario
async def an_interrupted_resume_writing_leaves_nobody_waiting(loop):
    class Interrupted(Recorder):
        def resume_writing(self):
            raise Interrupt

    transport, protocol, theirs = await pair(loop, Interrupted)
    transport.set_write_buffer_limits(high=10, low=0)
    transport.write(b"x" * 8_000_000)
    empty = transport._make_empty_waiter()
    received = 0
    while received < 8_000_000:
        received += len(await loop.sock_recv(theirs, 1_000_000))
    await asyncio.wait_for(empty, 30)
    transport._reset_empty_waiter()
    await closes(transport, protocol, theirs)


@scenario
async def an_interrupted_close_closes_its_socket(loop):
    made = []

    class Noted(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(transport)

    server = await loop.create_server(Noted, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.setblocking(False)
        await until(lambda: made)
        with interrupted(made[0], "_detach"):
            made[0].close()
            assert await loop.sock_recv(client, 1) == b""
    server.close()
    await asyncio.wait_for(server.wait_closed(), 30)


@scenario
async def an_interrupted_accept_costs_one_connection(loop):
    served = []

    class Served(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            served.append(transport)

    server = await loop.create_server(Served, "127.0.0.1", 0)
    debug = loop.get_debug()
    # In debug mode there is more Python code in between.
    for of, method, debugs in (
        (loop, "_accepted", True),
        (loop, "_serve_accepted", True),
        (server, "_attach", True),
        (server, "_attach", False),
    ):
        loop.set_debug(debugs)
        with interrupted(of, method):
            clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(5)]
            ends = []
            for client in clients:
                client.setblocking(False)
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(client, b"hello")
                try:
                    ends.append(await asyncio.wait_for(loop.sock_recv(client, 10), 30))
                except ConnectionError:
                    ends.append(b"")
            assert sorted(ends) == [b""] + [b"hello"] * 4, (method, ends)
            for client in clients:
                client.close()
    loop.set_debug(debug)
    server.close()
    await asyncio.wait_for(server.wait_closed(), 30)
    await until(lambda: all(transport._sock is None for transport in served))


@scenario
async def an_interrupted_end_of_a_connect_is_told_again(loop):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with interrupted(loop, "_connected"):
            connecting = loop.create_connection(Recorder, *listening.getsockname())
            transport, protocol = await asyncio.wait_for(connecting, 30)
        transport.abort()
        await protocol.lost
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with interrupted(loop, "_accepted"):
            accepting = loop.create_task(loop.sock_accept(listening))
            listening.setblocking(False)
            first, second = (socket.socket() for _ in range(2))
            for client in (first, second):
                client.connect(listening.getsockname())
            conn, address = await asyncio.wait_for(accepting, 30)
            # The first was whose acceptance was interrupted; it may have been the second as well, had it been faster.
            assert address in (first.getsockname(), second.getsockname())
            for sock in (first, second, conn):
                sock.close()


class Interrupting:
    """The nth line that is run of these functions of Openings is interrupted before it, or on the way back to its caller."""

    def __init__(self, names, nth):
        self.codes = {getattr(Openings, name).__code__ for name in names}
        self.left = nth

    def begin(self, frame, event, arg):
        return self.step if frame.f_code in self.codes else None

    def step(self, frame, event, arg):
        self.left -= 1
        if self.left == 0:
            sys.settrace(None)
            raise Interrupt
        return self.step


async def accepts_although_interrupted(loop, names, nth, given_up, spare):
    """Two of three that accept get a client each, whoever gives up. Answers whether there was a step to interrupt."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.setblocking(False)
        tasks = [loop.create_task(loop.sock_accept(listening)) for _ in range(3 if given_up else 2)]
        await asyncio.sleep(0)
        clients = [stack.enter_context(socket.create_connection(listening.getsockname())) for _ in range(2 + spare)]
        interrupting = Interrupting(names, nth)
        sys.settrace(interrupting.begin)
        try:
            if given_up:
                # In the turn in which it is told of the first client.
                with called_before(loop, "_hand_over", tasks.pop(0).cancel):
                    await until(lambda: all(task.done() for task in tasks))
            else:
                await until(lambda: all(task.done() for task in tasks))
        finally:
            sys.settrace(None)
        accepted = [task.result() for task in tasks]
        for conn, _ in accepted + loop._arrived.pop(listening, []):
            stack.enter_context(conn)
        names_of_clients = [client.getsockname() for client in clients]
        peers = [peer for _, peer in accepted]
        assert len(set(peers)) == 2 and set(peers) <= set(names_of_clients), (nth, peers, names_of_clients)
        assert not loop._accepting, (nth, loop._accepting)
        return interrupting.left <= 0


@contextlib.contextmanager
def called_before(of, method, first):
    """When that method is to be called, `first` is called before, once."""
    genuine = getattr(of, method)
    genuine_soon = of.call_soon

    def call_soon(callback, *args, **kwargs):
        if callback == genuine:
            del of.call_soon
            genuine_soon(first)
        return genuine_soon(callback, *args, **kwargs)

    of.call_soon = call_soon
    yield
    of.__dict__.pop("call_soon", None)


@scenario
async def an_accept_that_is_interrupted_anywhere_loses_nobody(loop):
    """Before a client is noted down, it is lost with the interrupt, and nobody waits for ever."""
    for names, spare in ((("_hand_over", "_stop_accepting_once"), 0), (("_accepted_once",), 1)):
        for given_up in (False, True):
            for nth in itertools.count(1):
                if not await accepts_although_interrupted(loop, names, nth, given_up, spare):
                    break


@scenario
async def a_connect_whose_end_is_interrupted_anywhere_ends(loop):
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as gone:
        nobody = gone.getsockname()
        gone.close()
        for nth in itertools.count(1):
            interrupting = Interrupting(("_connected",), nth)
            with socket.socket() as client, socket.socket() as refused, contextlib.suppress(ConnectionRefusedError):
                client.setblocking(False)
                refused.setblocking(False)
                sys.settrace(interrupting.begin)
                try:
                    await asyncio.wait_for(loop.sock_connect(client, listening.getsockname()), 30)
                    await asyncio.wait_for(loop.sock_connect(refused, nobody), 30)
                finally:
                    sys.settrace(None)
                raise AssertionError("nobody listens there")
            assert not loop._connecting
            if interrupting.left > 0:
                break


@scenario
async def a_server_whose_failure_is_interrupted_anywhere_serves_again(loop):
    delay, constants.ACCEPT_RETRY_DELAY = constants.ACCEPT_RETRY_DELAY, 0.001
    loop.set_exception_handler(lambda *_: None)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    try:
        for nth in itertools.count(1):
            interrupting = Interrupting(("_accept_failed",), nth)
            (number,) = loop._served
            # As the driver does, where no descriptor is left.
            loop._stop_opening(number)
            sys.settrace(interrupting.begin)
            loop.call_soon(loop._accept_failed, number, errno.EMFILE)
            await until(lambda number=number: loop._served and number not in loop._served)
            sys.settrace(None)
            assert len(loop._served) == len(loop._serving_numbers) == 1
            with socket.create_connection(server.sockets[0].getsockname()) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, b"hello")
                assert await asyncio.wait_for(loop.sock_recv(client, 10), 30) == b"hello"
            if interrupting.left > 0:
                break
    finally:
        sys.settrace(None)
        loop.set_exception_handler(None)
        constants.ACCEPT_RETRY_DELAY = delay
    server.close()
    await asyncio.wait_for(server.wait_closed(), 30)
