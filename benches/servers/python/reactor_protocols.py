"""The protocols that py_reactor serves: three ways to write, for each case.

``base``      data_received fills write_buffer; the inherited write_ready sends it, in native code.
``doc``       the same, but write_ready is in Python, and cuts write_buffer by what write took.
``zerocopy``  data_received gives what it has to write(); an echo, the very buffer received into.
"""

from __future__ import annotations

from typing import Any

from beside import Library, Sink
from work import Worker

import erlang.reactor as reactor


class WritesInPython(reactor.Protocol):
    def write_ready(self) -> reactor.Action:
        if not self.write_buffer:
            return "read_pending"
        written = self.write(bytes(self.write_buffer))
        del self.write_buffer[:written]
        if self.write_buffer:
            return "continue"
        return "read_pending"


class Echo(reactor.Protocol):
    def data_received(self, data: reactor.ReactorBuffer) -> reactor.Action:
        self.write_buffer.extend(data)
        return "write_pending"


class EchoDoc(WritesInPython, Echo):
    pass


class EchoZerocopy(reactor.Protocol):
    def data_received(self, data: reactor.ReactorBuffer) -> reactor.Action:
        sent = self.write(data)
        if sent == len(data):
            return "continue"
        self.write_buffer += data[sent:]
        return "write_pending"


class Answers(reactor.Protocol):
    """A case that answers other bytes than it got."""

    def answer(self, data: bytes) -> bytes:
        """What to send for ``data``; comes from the class beside this one."""
        raise NotImplementedError

    def data_received(self, data: reactor.ReactorBuffer) -> reactor.Action:
        answer = self.answer(data)
        if not answer:
            return "continue"
        self.write_buffer.extend(answer)
        return "write_pending"


class AnswersZerocopy(Answers):
    def data_received(self, data: reactor.ReactorBuffer) -> reactor.Action:
        answer = self.answer(data)
        sent = self.write(answer)
        if sent == len(answer):
            return "continue"
        self.write_buffer += answer[sent:]
        return "write_pending"


class Cpu(Worker, Answers):
    pass


class CpuDoc(WritesInPython, Cpu):
    pass


class CpuZerocopy(Worker, AnswersZerocopy):
    pass


class Flooded(Sink, Answers):
    pass


class FloodedDoc(WritesInPython, Flooded):
    pass


class FloodedZerocopy(Sink, AnswersZerocopy):
    pass


class Document(Library, Answers):
    pass


class DocumentDoc(WritesInPython, Document):
    pass


class DocumentZerocopy(Library, AnswersZerocopy):
    pass


class Udp(reactor.Protocol):
    def data_received(self, data: reactor.ReactorBuffer) -> reactor.Action:
        self.write(data)
        return "continue"


class UdpDoc(reactor.Protocol):
    def datagram_received(self, data: reactor.ReactorBuffer, addr: Any) -> reactor.Action:
        self.sendto(data, addr)
        return "continue"


PROTOCOLS: dict[tuple[str, str], type[reactor.Protocol]] = {
    ("echo", "base"): Echo,
    ("echo", "doc"): EchoDoc,
    ("echo", "zerocopy"): EchoZerocopy,
    ("cpu", "base"): Cpu,
    ("cpu", "doc"): CpuDoc,
    ("cpu", "zerocopy"): CpuZerocopy,
    ("sink", "base"): Flooded,
    ("sink", "doc"): FloodedDoc,
    ("sink", "zerocopy"): FloodedZerocopy,
    ("document", "base"): Document,
    ("document", "doc"): DocumentDoc,
    ("document", "zerocopy"): DocumentZerocopy,
    ("udp", "base"): Udp,
    ("udp", "doc"): UdpDoc,
}
