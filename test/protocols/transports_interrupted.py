"""What becomes of stream transports whose callbacks, or what calls these, are interrupted: scenarios of transports.py. What is
meant to end a loop ends the run of one's own, which is begun again; a context says so and goes on."""

import asyncio
import contextlib
import socket

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
