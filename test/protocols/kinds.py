"""Protocols for descriptors of other kinds than connected streams."""

import os
import socket
import threading

import erlang.reactor as reactor
from recorder import Recording, note


class Echo(Recording):
    """Answers whoever sent, through write()."""

    def data_received(self, data):
        self.write(b"echo " + data)
        return "continue"


class Mirror(Recording):
    """Answers with exactly what came."""

    def datagram_received(self, data, addr):
        self.sendto(data, addr)
        return "continue"


class Buffered(Recording):
    """Answers through write_buffer and the base class."""

    def data_received(self, data):
        self.write_buffer.extend(data)
        return "write_pending"


class Addressed(Recording):
    """Tells each sender who it is."""

    def datagram_received(self, data, addr):
        self.sendto(repr(addr).encode() + b" " + data, addr)
        return "continue"

    def error_received(self, exc):
        note(self.tag, "error_received", type(exc).__name__)


class Misled(Addressed):
    """Answers to port 0, as if the sender had said that it is there."""

    def datagram_received(self, data, addr):
        if data == b"port 0":
            addr = (addr[0], 0)
        return super().datagram_received(data, addr)


class Fragile(Recording):
    """Doubles numbers, and breaks in several ways."""

    def datagram_received(self, data, addr):
        match int(data):
            case -2:
                raise SystemExit
            case -1:
                return None
            case 0:
                self.sendto(data, (addr[0], 0))
            case number:
                self.sendto(b"%d" % (2 * number), addr)
        return "continue"

    def error_received(self, exc):
        raise exc


class Lost(Recording):
    """Says what becomes of what it sends to no address."""

    def datagram_received(self, data, addr):
        said = []
        for wrong in [(), ("127.0.0.1",), ("::1", 1, 2, 3, 4), [], 5, ("127.0.0.1", "1"), (1, 2), ("127.0.0.1", 65536), ("127.0.0.1", -1)]:
            try:
                said.append(self.sendto(data, wrong))
            except Exception as error:
                said.append(type(error).__name__)
        self.sendto(repr(said).encode(), addr)
        return "continue"


class Nobody(Recording):
    """Writes before anything has arrived, where there is nobody to write to."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.write(b"hello?")


class Refused(Addressed):
    """Sends to its peer, who is not there."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.write(b"anybody?")

    def data_received(self, data):
        note(self.tag, "late", bytes(data))
        return "continue"


class Collect(Recording):
    """Keeps what arrives."""

    def data_received(self, data):
        note(self.tag, "data", bytes(data))
        return "continue"


class Lines(Recording):
    """Writes three lines, then closes: for a write-only end."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.left = 3

    def write_ready(self):
        self.write(b"line %d\n" % self.left)
        self.left -= 1
        return "continue" if self.left else "close"


class Flood(Recording):
    """Writes a megabyte into a pipe that holds less."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.write_buffer.extend(bytes(range(256)) * 4096)

    def write_ready(self):
        return "close" if super().write_ready() == "read_pending" else "continue"


def pipe():
    return os.pipe()


def terminal():
    return os.openpty()


def unix_datagrams():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.detach(), theirs.detach()


def connected_to_nobody():
    """A UDP socket whose peer's port has just been closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ours.connect(peer.getsockname())
    return ours.detach()


def put(fd, data):
    return os.write(fd, data.encode())


def get(fd, size):
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            break
        data += part
    return data


def close(fd):
    os.close(fd)


_drained = {}


def drain_in_a_thread(fd, name):
    """Reads a blocking end to its end, beside the reactor thread."""

    def run():
        _drained[name] = get(fd, 1 << 30)

    threading.Thread(target=run).start()


def drained(name):
    data = _drained.get(name)
    return None if data is None else (len(data), data == bytes(range(256)) * 4096)
