"""Protocols that answer when they are told to."""

import threading

import erlang.reactor as reactor
from recorder import Recording, note


class Later(Recording):
    """An echo that waits for signal_write_ready."""

    def data_received(self, data):
        super().data_received(data)
        return "async_pending"


class Answers(Recording):
    """Four million bytes, by the inherited write_ready, one in Python, or a thread."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.how = client_info["how"]
        if self.how == "python":
            self.write_ready = self.write_in_python

    def data_received(self, data):
        if self.how == "thread":
            threading.Thread(target=self.work).start()
            return "async_pending"
        self.write_buffer.extend(bytes(4_000_000))
        note(self.tag, "answered")
        return "write_pending"

    def work(self):
        self.write_buffer.extend(bytes(4_000_000))
        reactor.signal_write_ready(self.fd)
        note(self.tag, "answered")

    def write_in_python(self):
        written = self.write(memoryview(self.write_buffer)[:10_000])
        del self.write_buffer[:written]
        return "continue" if self.write_buffer else "read_pending"
