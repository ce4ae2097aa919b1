"""Connects to a port of this machine when it is told to, and has a byte echoed."""

import socket
import sys

client = socket.socket()
print("ready", flush=True)
sys.stdin.readline()
client.connect(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
client.sendall(b"x")
assert client.recv(1) == b"x"
print("echoed", flush=True)
