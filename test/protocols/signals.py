"""Answers that stand in write_buffer when somebody signals, whatever mode the connection is in by then."""

import asyncio
import threading

import erlang.reactor as reactor
from recorder import Recording, note, protocol


def name(proto, by):
    """What signals that connection."""
    return {
        "method": proto.signal_write_ready,
        "handle": lambda: reactor.signal_write_ready(proto.handle),
        "number": lambda: reactor.signal_write_ready(proto.fd),
    }[by]


def answer(tag, by, where, data):
    """Puts it into write_buffer, and signals: here or in another thread."""

    def work():
        proto = protocol(tag)
        proto.write_buffer.extend(data.encode())
        signalled.append(name(proto, by)())

    signalled = []
    if where == "thread":
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
    return signalled[0]


def write_by_hand(tag):
    """From now on it writes as the document does, by another class or a function of its own."""
    proto = protocol(tag)
    if tag.endswith("1"):
        proto.__class__ = ByHand
    else:
        proto.write_ready = lambda: ByHand.write_ready(proto)


class Silent(Recording):
    """Whatever arrives is answered by somebody else."""

    def data_received(self, data):
        note(self.tag, "data_received", bytes(data))
        return "async_pending"


class ByHand(Silent):
    def write_ready(self):
        written = self.write(bytes(self.write_buffer))
        del self.write_buffer[:written]
        return "continue" if self.write_buffer else "read_pending"


class Within(Recording):
    """Each callback answers so, and signals itself before or afterwards."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.answer = client_info["answer"]
        self.signals_first = client_info["first"]
        self.reply(b"made ")

    def reply(self, data):
        if self.signals_first:
            self.signal_write_ready()
        self.write_buffer.extend(data)
        if not self.signals_first:
            self.signal_write_ready()
        return self.answer

    def data_received(self, data):
        note(self.tag, "data_received", bytes(data))
        return self.reply(bytes(data))

    def message_received(self, message):
        return self.reply(b"message ")

    def eof_received(self):
        return self.reply(b"end")


class Holding(Recording):
    """Answers by a task, which ends when it is told."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.go_on = asyncio.Event()

    async def data_received(self, data):
        note(self.tag, "data_received", bytes(data))
        await self.go_on.wait()
        return "continue"

    def message_received(self, message):
        self.go_on.set()
        return "continue"
