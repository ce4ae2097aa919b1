"""Scenarios of endpoints.py: operations on sockets, files that are sent, pipes."""

import io
import os
import socket
import tempfile

from endpoints import pair, raised, scenario, turns, until


@scenario
async def operations_on_a_socket(loop):
    ours, theirs = pair()
    received = loop.create_task(loop.sock_recv(ours, 100))
    await turns(1)
    await loop.sock_sendall(theirs, b"hello")
    assert await received == b"hello"
    room = bytearray(10)
    filled = loop.create_task(loop.sock_recv_into(ours, room))
    await turns(1)
    theirs.send(b"into")
    assert await filled == 4 and room[:4] == b"into"
    theirs.close()
    assert await loop.sock_recv(ours, 10) == b""
    ours.close()
    one, other = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for end in (one, other):
        end.setblocking(False)
        end.bind(("127.0.0.1", 0))
    waited = loop.create_task(loop.sock_recvfrom(other, 100))
    await turns(1)
    assert await loop.sock_sendto(one, b"datagram", other.getsockname()) == 8
    assert await waited == (b"datagram", one.getsockname())
    waited = loop.create_task(loop.sock_recvfrom_into(other, room))
    await turns(1)
    one.sendto(b"again", other.getsockname())
    assert await waited == (5, one.getsockname()) and room[:5] == b"again"
    for end in (one, other):
        end.close()


@scenario
async def much_is_sent_to_a_slow_reader_and_can_be_given_up(loop):
    import asyncio

    ours, theirs = pair()
    data = os.urandom(1 << 20) * 4
    sending = loop.create_task(loop.sock_sendall(ours, data))
    got = bytearray()
    while len(got) < len(data):
        got += await loop.sock_recv(theirs, 1 << 16)
    await sending
    assert got == data
    sending = loop.create_task(loop.sock_sendall(ours, data))
    await turns()
    sending.cancel()
    try:
        await sending
    except asyncio.CancelledError:
        pass
    # Nobody writes any more.
    await turns()
    there = 0
    try:
        while True:
            there += len(theirs.recv(1 << 20))
    except BlockingIOError:
        pass
    await turns()
    raised(BlockingIOError, theirs.recv, 1)
    assert 0 < there < len(data)
    ours.close()
    theirs.close()


@scenario
async def files_are_sent_by_sockets(loop):
    import asyncio

    ours, theirs = pair()
    data = os.urandom(1 << 20) * 3
    with tempfile.TemporaryFile() as file:
        file.write(data)
        for offset, count in ((0, None), (100, 1 << 20)):
            sending = loop.create_task(loop.sock_sendfile(ours, file, offset, count))
            expected = data[offset:][:count]
            got = bytearray()
            while len(got) < len(expected):
                got += await loop.sock_recv(theirs, 1 << 16)
            assert await sending == len(expected) and got == expected
            assert file.tell() == offset + len(expected)
    other = io.BytesIO(b"no file")
    assert await loop.sock_sendfile(ours, other) == 7 and theirs.recv(10) == b"no file"
    try:
        await loop.sock_sendfile(ours, other, fallback=False)
    except asyncio.SendfileNotAvailableError:
        pass
    else:
        raise AssertionError("that is no file")
    ours.close()
    theirs.close()


@scenario
async def files_are_sent_by_transports_after_what_was_written(loop):
    import asyncio

    data = os.urandom(1 << 20) * 3

    async def serve(reader, writer):
        with tempfile.TemporaryFile() as file:
            file.write(data)
            writer.write(b"before" * 100_000)
            assert await loop.sendfile(writer.transport, file) == len(data)
            assert await loop.sendfile(writer.transport, io.BytesIO(b"other")) == 5
        assert writer.transport.is_reading()
        writer.write(b"after " + await reader.readexactly(4))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"ping")
    await turns(20)
    assert await reader.read() == b"before" * 100_000 + data + b"other" + b"after ping"
    writer.close()
    server.close()
    await server.wait_closed()
    await turns()


class Ends:
    """Notes what a pipe's transport tells."""

    def __init__(self):
        self.got, self.marks, self.lost, self.ended = bytearray(), [], [], False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got += data

    def eof_received(self):
        self.ended = True

    def pause_writing(self):
        self.marks.append("pause")

    def resume_writing(self):
        self.marks.append("resume")

    def connection_lost(self, exc):
        self.lost.append(exc)


@scenario
async def pipes(loop):
    reading, writing = os.pipe()
    reader, heard = await loop.connect_read_pipe(Ends, os.fdopen(reading, "rb", 0))
    writer, told = await loop.connect_write_pipe(Ends, os.fdopen(writing, "wb", 0))
    assert reader.get_extra_info("pipe").fileno() == reading and writer.get_extra_info("pipe") is not None
    reader.pause_reading()
    data = os.urandom(300_000)
    writer.write(data)
    assert told.marks == ["pause"] and writer.get_write_buffer_size() > 0
    await turns()
    assert not heard.got
    reader.resume_reading()
    await until(lambda: len(heard.got) == len(data))
    assert heard.got == data and told.marks == ["pause", "resume"]
    writer.close()
    await until(lambda: heard.lost and told.lost)
    assert heard.ended and heard.lost == [None] and told.lost == [None]


@scenario
async def a_pipe_whose_reader_is_gone(loop):
    reading, writing = os.pipe()
    writer, told = await loop.connect_write_pipe(Ends, os.fdopen(writing, "wb", 0))
    os.close(reading)
    await until(lambda: told.lost)
    assert isinstance(told.lost[0], BrokenPipeError) or told.lost[0] is None, told.lost


@scenario
async def a_terminal(loop):
    leader, follower = os.openpty()
    reader, heard = await loop.connect_read_pipe(Ends, os.fdopen(leader, "rb", 0))
    os.write(follower, b"hello")
    await until(lambda: heard.got == b"hello")
    os.close(follower)
    await until(lambda: heard.lost)


@scenario
async def a_file_is_no_pipe(loop):
    with tempfile.NamedTemporaryFile() as file:
        for connect, mode in ((loop.connect_read_pipe, "rb"), (loop.connect_write_pipe, "wb")):
            with open(file.name, mode, 0) as opened:
                try:
                    await connect(Ends, opened)
                except ValueError as exc:
                    assert "pipe" in str(exc).lower(), exc
                else:
                    raise AssertionError("it is a file")


@scenario
async def an_accept_is_given_up_as_somebody_arrives(loop):
    """In the very turn, that is, in which the driver says so: whoever accepts next has them."""
    import asyncio

    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            accepts = loop.create_task(loop.sock_accept(listening))
            await asyncio.sleep(0.002)
            with socket.create_connection(listening.getsockname()) as client:
                accepts.cancel()
                await turns()
                assert accepts.cancelled()
                conn, peer = await asyncio.wait_for(loop.sock_accept(listening), 20)
                assert peer == client.getsockname()
                conn.close()
