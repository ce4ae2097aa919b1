"""The clients of what the soak serves by asyncio: those that the others have, where they make sense, and of datagrams."""

import asyncio
import socket

from clients import BEHAVIOURS, Fault

DATAGRAM_SECONDS = 0.5

# Servers of asyncio do not end a connection for what a protocol of the reactor answers.
ASYNCIO_BEHAVIOURS = {
    behaviour: weight for behaviour, weight in BEHAVIOURS.items() if behaviour.__name__ not in ("closes", "fails")
}


async def datagrams(client):
    """What comes back is what was sent, if it does."""
    rng = client.rng
    loop = asyncio.get_running_loop()
    client.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.sock.setblocking(False)
    client.sock.connect(("127.0.0.1", client.load.ports[client.port]))
    for _ in range(rng.randint(1, 30)):
        sent = {rng.randbytes(rng.randint(16, 9000)) for _ in range(rng.randint(1, 5))}
        for data in sent:
            await loop.sock_sendall(client.sock, data)
            client.sent += len(data)
        while sent:
            try:
                async with asyncio.timeout(DATAGRAM_SECONDS):
                    data = await loop.sock_recv(client.sock, 65536)
            except TimeoutError:
                # Nobody is owed a datagram.
                break
            client.got += len(data)
            client.load.verified += len(data)
            if data not in sent and client.note != " late":
                raise Fault("a datagram that was not sent")
            sent.discard(data)
        if sent:
            client.note = " late"


def behaviours_of(port):
    """What clients of that port do, and how often."""
    if port == "aio_udp":
        return {datagrams: 1}
    return ASYNCIO_BEHAVIOURS if port.startswith("aio_") else BEHAVIOURS
