"""Stream transports of what a server has accepted, whose socket objects are made for those who ask: scenarios of transports.py."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import tempfile
import threading
import warnings
import weakref
from asyncio import base_events, trsock
from unittest import mock

from endpoints import reuse, until
from transports import Echo, Recorder, scenario


async def accepted(loop, kind=Recorder, host="127.0.0.1", family=socket.AF_INET):
    """A server with one connection: the server, the transport and protocol of that, and a socket at the other end."""
    made = []

    class Accepted(kind):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append((transport, self))

    if family == socket.AF_UNIX:
        path = os.path.join(tempfile.mkdtemp(), "socket")
        server = await loop.create_unix_server(Accepted, path)
    else:
        server = await loop.create_server(Accepted, host, 0, family=family)
    theirs = socket.socket(family)
    theirs.setblocking(False)
    address = server.sockets[0].getsockname()
    if family != socket.AF_UNIX and host in ("0.0.0.0", "::"):
        address = (host.replace("0.0.0.0", "127.0.0.1").replace("::", "::1"), *address[1:])
    await loop.sock_connect(theirs, address)
    await until(lambda: made)
    return server, *made.pop(), theirs


async def ends(server, protocol, theirs):
    theirs.close()
    await protocol.lost
    await until(lambda: not protocol.transport._has_socket)
    server.close()
    await asyncio.wait_for(server.wait_closed(), 30)


def python_sockets():
    # What a scenario before this has left to the collector is none of it.
    gc.collect()
    return sum(isinstance(one, socket.socket) for one in gc.get_objects())


@scenario
async def what_nobody_asks_for_is_not_made(loop):
    server, transport, protocol, theirs = await accepted(loop, Echo)
    before = python_sockets()
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(1)]
    assert python_sockets() == before + len(clients)
    await loop.sock_sendall(theirs, b"hello")
    assert await loop.sock_recv(theirs, 10) == b"hello"
    assert transport.get_extra_info("peername") == theirs.getsockname()
    assert transport.get_extra_info("nothing", 7) == 7 and transport.get_extra_info("nothing", default=8) == 8
    assert "fd=" in repr(transport) and "closed" not in repr(transport)
    assert python_sockets() == before + len(clients)
    for client in clients:
        client.close()
    await ends(server, protocol, theirs)
    assert "closed" in repr(transport)


@scenario
async def its_addresses_are_known_before_and_after_its_end(loop):
    cases = [("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET), ("", socket.AF_UNIX)]
    if socket.has_ipv6:
        cases += [("::1", socket.AF_INET6), ("::", socket.AF_INET6)]
    for host, family in cases:
        for early in (True, False):
            try:
                server, transport, protocol, theirs = await accepted(loop, host=host, family=family)
            except OSError as exc:
                assert family == socket.AF_INET6 and exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT), exc
                continue
            names = theirs.getsockname(), theirs.getpeername()

            def known(transport=transport):
                return transport.get_extra_info("peername"), transport.get_extra_info("sockname")

            if early:
                assert known() == names, (known(), names)
            await ends(server, protocol, theirs)
            assert known() == names, (known(), names)
            sock = transport.get_extra_info("socket")
            assert type(sock) is trsock.TransportSocket and sock.fileno() == -1
            assert set(transport._extra) == {"peername", "sockname", "socket"}


@scenario
async def its_socket_is_made_once_and_works(loop):
    server, transport, protocol, theirs = await accepted(loop, Echo)
    sock = transport.get_extra_info("socket")
    assert type(sock) is trsock.TransportSocket and sock is transport.get_extra_info("socket")
    assert sock is transport._extra["socket"] and sock.fileno() == transport._sock.fileno() == transport._sock_fd
    assert sock.gettimeout() == 0 and sock.type == socket.SOCK_STREAM
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert sock.getpeername() == theirs.getsockname() and sock.getsockname() == theirs.getpeername()
    await loop.sock_sendall(theirs, b"hello")
    assert await loop.sock_recv(theirs, 10) == b"hello"
    await ends(server, protocol, theirs)
    assert sock.fileno() == -1 and transport._sock is None


@scenario
async def threads_that_ask_for_its_socket_get_the_same(loop):
    for _ in range(20):
        server, transport, protocol, theirs = await accepted(loop, Echo)
        barrier, found = threading.Barrier(4), []

        def ask(transport=transport, barrier=barrier, found=found):
            barrier.wait()
            found.append(transport._sock)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, found))) == 1
        await loop.sock_sendall(theirs, b"hello")
        assert await loop.sock_recv(theirs, 10) == b"hello"
        await ends(server, protocol, theirs)


@scenario
async def an_accepted_socket_that_somebody_else_closes(loop):
    """As one that was given to the loop: the transport reaches nobody by the number."""
    server, transport, protocol, theirs = await accepted(loop)
    ends_of_others = reuse(transport._sock.detach())
    stranger = ends_of_others[1]
    transport.write(b"secret")
    assert (await protocol.lost).errno == errno.EBADF
    try:
        raise AssertionError(stranger.recv(100))
    except BlockingIOError:
        pass
    for end in ends_of_others:
        end.close()
    await ends(server, protocol, theirs)


@scenario
async def a_number_that_somebody_else_closed_is_not_closed_again(loop):
    server, transport, protocol, theirs = await accepted(loop)
    number = transport._sock_fd
    stranger, other = socket.socketpair()
    os.dup2(stranger.fileno(), number)
    transport.abort()
    await protocol.lost
    await until(lambda: not transport._has_socket)
    os.write(number, b"x")
    assert other.recv(1) == b"x"
    os.close(number)
    stranger.close()
    other.close()
    theirs.close()
    server.close()


@scenario
async def its_number_is_the_transports_alone(loop):
    server, transport, protocol, theirs = await accepted(loop)
    number = transport._sock_fd
    assert loop._transports[number] is transport
    for use in (lambda: loop.add_reader(number, print), lambda: loop.add_writer(number, print)):
        try:
            raise AssertionError(use())
        except RuntimeError as exc:
            assert "is used by transport" in str(exc)
    await ends(server, protocol, theirs)
    try:
        raise AssertionError(loop._transports[number])
    except KeyError:
        pass


@scenario
async def a_file_is_sent_to_a_client_of_a_server(loop):
    server, transport, protocol, theirs = await accepted(loop)
    with tempfile.TemporaryFile() as file:
        file.write(b"f" * 500_000)
        sending = loop.create_task(loop.sendfile(transport, file, 0, None))
        received = 0
        while received < 500_000:
            received += len(await loop.sock_recv(theirs, 65536))
        assert await sending == 500_000
    assert loop._transports[transport._sock_fd] is transport
    await ends(server, protocol, theirs)


@scenario
async def a_factory_that_fails_costs_its_client_alone(loop):
    said = []
    loop.set_exception_handler(lambda loop, context: said.append(context))
    fails, served = [True], []

    class NotMade:
        pass

    def factory():
        if fails:
            raise ValueError("no protocol")
        if len(said) == 1:
            return NotMade()
        served.append(Echo())
        return served[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    answers = []
    for _ in range(3):
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, b"hello")
            try:
                answers.append(await loop.sock_recv(client, 10))
            except ConnectionResetError:
                answers.append(b"")
        fails.clear()
    assert answers == [b"", b"", b"hello"]
    assert [type(context["exception"]) for context in said] == [ValueError, AttributeError]
    assert {context["message"] for context in said} == {"Error on transport creation for incoming connection"}
    assert ["protocol" in context for context in said] == [False, True]
    loop.set_exception_handler(None)
    await ends(server, served[0], client)


@scenario
async def what_was_accepted_is_collected_and_counted(loop):
    server, transport, protocol, theirs = await accepted(loop, Echo)
    alive = weakref.ref(transport)
    assert gc.is_tracked(transport)
    waits = loop.create_task(server.wait_closed())
    server.close()
    await asyncio.sleep(0)
    theirs.close()
    await protocol.lost
    del transport, protocol
    await asyncio.wait_for(waits, 30)
    await until(lambda: gc.collect() is not None and alive() is None)


@scenario
async def nobody_is_warned_of_what_was_closed(loop):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        server, transport, protocol, theirs = await accepted(loop, Echo)
        await ends(server, protocol, theirs)
        del transport, protocol
        gc.collect()
    assert [str(one.message) for one in said if "transport" in str(one.message)] == []


def counted(server):
    return len(server._clients) if hasattr(server, "_clients") else server._active_count


async def more_clients(loop, server, protocol_class, count):
    """So many clients more, and their protocols."""
    before, found = len(protocol_class.made), []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        found.append(client)
    await until(lambda: len(protocol_class.made) == before + count)
    return found, protocol_class.made[before:]


def noting():
    class Noting(Recorder):
        made = []

        def connection_made(self, transport):
            super().connection_made(transport)
            self.made.append(self)

    return Noting


@scenario
async def a_server_counts_its_connections(loop):
    kind = noting()
    server = await loop.create_server(kind, "127.0.0.1", 0)
    clients, protocols = await more_clients(loop, server, kind, 3)
    assert counted(server) == 3
    clients[0].close()
    await protocols[0].lost
    await until(lambda: counted(server) == 2)
    protocols[1].transport.abort()
    await until(lambda: counted(server) == 1)
    clients += (await more_clients(loop, server, kind, 1))[0]
    assert counted(server) == 2
    # Another server in its place is not the one that these are counted by.
    other = await loop.create_server(kind, "127.0.0.1", 0)
    clients += (await more_clients(loop, other, kind, 2))[0]
    assert (counted(server), counted(other)) == (2, 2)
    waits = loop.create_task(server.wait_closed())
    await asyncio.sleep(0)
    server.close()
    for client in clients:
        client.close()
    await asyncio.wait_for(waits, 30)
    await until(lambda: (counted(server), counted(other)) == (0, 0))
    assert server._waiters is None and other._waiters == []
    other.close()
    await asyncio.wait_for(other.wait_closed(), 30)


@scenario
async def a_server_that_counts_otherwise_is_told(loop):
    """Whether its class says so, or somebody has put a method there while it served."""
    told = []

    class Telling(base_events.Server):
        def _attach(self, *transport):
            told.append("attach")
            super()._attach(*transport)

        def _detach(self, *transport):
            told.append("detach")
            super()._detach(*transport)

    kind = noting()
    with mock.patch.object(base_events, "Server", Telling):
        servers = [await loop.create_server(kind, "127.0.0.1", 0)]
    servers.append(await loop.create_server(kind, "127.0.0.1", 0))
    count, count_off = servers[1]._attach, servers[1]._detach
    servers[1]._attach = lambda *transport: [told.append("attach"), count(*transport)]
    servers[1]._detach = lambda *transport: [told.append("detach"), count_off(*transport)]
    for server in servers:
        clients, _ = await more_clients(loop, server, kind, 3)
        assert told == 3 * ["attach"] and counted(server) == 3
        for client in clients:
            client.close()
        await until(lambda server=server: counted(server) == 0)
        assert told == 3 * ["attach"] + 3 * ["detach"]
        told.clear()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 30)


@scenario
async def a_factory_that_closes_its_server_gets_no_connection(loop):
    said, served = [], []
    loop.set_exception_handler(lambda loop, context: said.append(context))

    def factory():
        served.append(Echo())
        if len(served) == 2:
            server.close()
        return served[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    ends = []
    for _ in range(2):
        client = socket.create_connection(address)
        client.setblocking(False)
        with contextlib.suppress(ConnectionError):
            await loop.sock_sendall(client, b"hello")
        try:
            ends.append((client, await loop.sock_recv(client, 10)))
        except ConnectionError:
            ends.append((client, b""))
    loop.set_exception_handler(None)
    assert [end for _, end in ends] == [b"hello", b""]
    assert [type(context["exception"]) for context in said] == [AssertionError]
    assert counted(server) == 1
    for client, _ in ends:
        client.close()
    await asyncio.wait_for(server.wait_closed(), 30)
    await until(lambda: counted(server) == 0)


@scenario
async def what_a_protocol_has_at_its_end_is_called(loop):
    """Of asyncio's own methods, which do nothing, nobody can tell whether they are; of all others it is seen."""
    calls = []

    def stays(protocol):
        calls.append("eof")
        return True

    def lost(protocol, exc):
        calls.append(exc)

    class Plain(asyncio.Protocol):
        made = []

        def connection_made(self, transport):
            self.transport = transport
            self.made.append(self)

    class Buffered(asyncio.BufferedProtocol):
        made = []
        connection_made = Plain.connection_made

        def get_buffer(self, _size):
            return bytearray(100)

        def buffer_updated(self, _count):
            pass

    class Computed:
        made = []
        connection_made = Plain.connection_made

        def data_received(self, _data):
            pass

        def __getattr__(self, name):
            return {"eof_received": lambda: stays(self), "connection_lost": lambda exc: lost(self, exc)}[name]

    async def ended(kind, prepare=lambda protocol: None, by_eof=True):
        server = await loop.create_server(kind, "127.0.0.1", 0)
        (client,), (protocol,) = await more_clients(loop, server, kind, 1)
        prepare(protocol)
        client.shutdown(socket.SHUT_WR)
        if by_eof:
            assert await loop.sock_recv(client, 1) == b""
        else:
            await until(lambda: calls)
            assert not protocol.transport.is_closing()
            protocol.transport.close()
        await until(lambda: not protocol.transport._has_socket)
        client.close()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 30)
        told, calls[:] = list(calls), []
        return told

    for kind in (Plain, Buffered):
        assert await ended(kind) == []
        assert await ended(kind, lambda protocol: setattr(protocol, "eof_received", lambda: stays(protocol)), False) == ["eof"]
        assert await ended(kind, lambda protocol: setattr(protocol, "connection_lost", lambda exc: lost(protocol, exc))) == [None]
        # Replaced while it serves: in asyncio's class, or in its own.
        base = kind.__mro__[1]
        for where in (base, kind):
            with mock.patch.object(where, "eof_received", stays):
                assert await ended(kind, by_eof=False) == ["eof"]
        for where in (asyncio.BaseProtocol, kind):
            with mock.patch.object(where, "connection_lost", lost):
                assert await ended(kind) == [None]
        assert await ended(kind) == []
    assert await ended(Computed, by_eof=False) == ["eof", None]
