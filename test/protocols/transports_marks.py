"""Stream transports that are written more to than the kernel takes: scenarios of transports.py."""

import asyncio

from endpoints import until
from transports import Recorder, closes, pair, scenario


@scenario
async def the_marks(loop):
    transport, protocol, theirs = await pair(loop, family="unix")
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    total = 4_000_000
    transport.write(b"w" * total)
    assert protocol.told == ["made", "pause"], "pause_writing is called within write"
    await asyncio.sleep(0.01)
    assert transport.get_write_buffer_size() > 400
    transport.write(b"w")
    assert protocol.told == ["made", "pause"]
    received = 0
    while received < total + 1:
        received += len(await loop.sock_recv(theirs, 100_000))
    await until(lambda: protocol.told == ["made", "pause", "resume"])
    assert transport.get_write_buffer_size() == 0
    # What the kernel takes at once pauses nobody.
    transport.set_write_buffer_limits(high=100)
    transport.write(b"w" * 10_000)
    await asyncio.sleep(0.01)
    assert transport.get_write_buffer_size() == 0
    await closes(transport, protocol, theirs)


@scenario
async def what_the_kernel_takes_pauses_nobody(loop):
    """Beyond the mark, be it one small piece or many of them."""
    for family in ("tcp", "unix"):
        transport, protocol, theirs = await pair(loop, family=family)
        transport.set_write_buffer_limits(high=0)
        for pieces in ([b"small"], [b"one", bytes(5000), b"three"]):
            for write in (transport.writelines, lambda pieces: [transport.write(piece) for piece in pieces]):
                write(pieces)
                assert transport.get_write_buffer_size() == 0
        transport.set_write_buffer_limits(high=1000)
        transport.writelines([bytes(400)] * 3)
        assert transport.get_write_buffer_size() == 0
        assert protocol.told == ["made"]
        transport.set_write_buffer_limits()
        transport.write(b"later")
        transport.close()
        assert await protocol.lost is None
        assert protocol.told == ["made", "lost"]
        assert len(b"".join(iter(lambda: theirs.recv(65536), b""))) == 2 * 5 + 2 * 5008 + 1200 + 5
        theirs.close()


@scenario
async def what_raises_in_pause_writing_costs_nothing(loop):
    class Raising(Recorder):
        def pause_writing(self):
            raise ValueError("pause")

        def resume_writing(self):
            raise ValueError("resume")

    said = []
    loop.set_exception_handler(lambda loop, context: said.append(context["message"]))
    transport, protocol, theirs = await pair(loop, Raising, "unix")
    transport.write(b"x" * 4_000_000)
    assert len(said) == 1
    received = 0
    while received < 4_000_000:
        received += len(await loop.sock_recv(theirs, 100_000))
    await until(lambda: len(said) == 2)
    loop.set_exception_handler(None)
    assert said == ["protocol.pause_writing() failed", "protocol.resume_writing() failed"]
    await closes(transport, protocol, theirs)
