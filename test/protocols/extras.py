"""Protocols that ask get_extra_info of real connections."""

import os
import socket
import threading

import recorder


class Asks(recorder.Recording):
    """Answers what it is asked for, as text."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.lost = None

    def data_received(self, data):
        self.write(repr(self.get_extra_info(data.decode())).encode())
        return "continue"

    def connection_lost(self):
        self.lost = self.get_extra_info("peername"), self.get_extra_info("socket") is None
        super().connection_lost()


def _asked_in_a_thread(proto, name):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(proto.get_extra_info(name)))
    thread.start()
    thread.join()
    return answers[0]


def look(tag):
    """What is wrong with its socket."""
    proto = recorder.protocol(tag)
    sock = proto.get_extra_info("socket")
    wrong = []
    if sock.fileno() == proto.fd or not os.path.sameopenfile(sock.fileno(), proto.fd):
        wrong.append("it is no duplicate")
    if os.get_inheritable(sock.fileno()):
        wrong.append("programs inherit it")
    if proto.get_extra_info("socket") is not sock or _asked_in_a_thread(proto, "socket") is not sock:
        wrong.append("it is made again")
    if _asked_in_a_thread(proto, "peername") != sock.getpeername():
        wrong.append("another peer")
    if proto.get_extra_info("cipher", "none") != "none" or proto.get_extra_info("pipe") is not None:
        wrong.append("it has what it has not")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.close()
    again = proto.get_extra_info("socket")
    if again is sock or not again.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        wrong.append("another socket")
    return wrong


def count_descriptors(fd):
    """Of the socket that has this one: others in this process come and go."""

    def link(number):
        try:
            return os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            return None

    return [link(number) for number in os.listdir("/proc/self/fd")].count(link(fd))


def ask_often(tag):
    """Each time over a duplicate that goes again."""
    proto = recorder.protocol(tag)
    before = count_descriptors(proto.fd)
    for _ in range(100):
        proto.get_extra_info("socket").close()
        proto.get_extra_info("sockname")
        proto.get_extra_info("nonsense")
    proto.get_extra_info("socket").close()
    return count_descriptors(proto.fd) - before


def after_the_end(tag):
    proto = recorder.protocol(tag)
    lost_peer, lost_socket = proto.lost
    return [lost_socket, lost_peer == proto.get_extra_info("peername"), proto.get_extra_info("socket").fileno() == -1]


def pipe(tag):
    """What is known of the end of a pipe."""
    proto = recorder.protocol(tag)
    raw = proto.get_extra_info("pipe")
    return [raw.fileno() != proto.fd, proto.get_extra_info("socket") is None, raw.readable(), raw.writable()]
