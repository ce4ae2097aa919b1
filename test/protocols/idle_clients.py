"""Connects COUNT clients to PORT and says "ready"; on a line of input, has each send a byte and get it back, and says "done".

For limits_SUITE: the clients' descriptors are not to count against the VM's limit.
"""

import resource
import socket
import sys


def main(port: int, count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    print("ready", flush=True)
    sys.stdin.readline()
    for client in clients:
        client.sendall(b"x")
    for client in clients:
        client.settimeout(60)
        assert client.recv(1) == b"x"
    print("done", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
