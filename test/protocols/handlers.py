"""Functions that Erlang calls about sockets."""

import socket

from recorder import protocol


def fd_of(tag):
    return protocol(tag).fd


def connect_to(addr: str, port: int):
    sock = socket.create_connection((addr, port))
    sock.sendall(b"hello from a new socket")
    sock.close()
