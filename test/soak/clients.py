"""The clients of the soak, each of which behaves badly in a way of its own, and knows what it is owed."""

import asyncio
import random
import socket
import struct
import time
from pathlib import Path

HEADER = struct.Struct(">4sBxxxII")
GENERATED = 65521
RESET = struct.pack("ii", 1, 0)

# Where connections may end at any moment: contexts that are restarted, full, or impatient.
VOLATILE = {"supervised", "restarted", "crowded", "timed", "race"}

STALL_SECONDS = 5  # without any progress; nobody pauses for as long
STALL_SECONDS_BUSY = 60  # where busy loops have the CPU


class Fault(Exception):
    """The server did not keep a promise."""


class Ended(Exception):
    """The connection is over, as it may be here."""


def generated(seed, size):
    block = random.Random(seed).randbytes(GENERATED)
    return (block * (size // GENERATED + 1))[:size]


class Client:
    """One connection, and what it is owed."""

    def __init__(self, load, port, rng):
        self.load = load
        self.port = port
        self.rng = rng
        self.volatile = port in VOLATILE
        self.sock = None
        self.local = None
        self.owed = b""
        self.got = self.sent = self.looks = 0
        self.began = time.monotonic()
        self.mode = "-"
        self.note = ""

    def __str__(self):
        age = f"{time.monotonic() - self.began:.1f} s old"
        return f"mode {self.mode}, local port {self.local}, {age}, sent {self.sent}, got {self.got} of {len(self.owed)}{self.note}"

    async def go(self, behaviour):
        self.load.open += 1
        try:
            await behaviour(self)
        except Ended:
            self.load.cut += 1
        finally:
            if self.sock is not None:
                self.sock.close()
            self.load.open -= 1

    async def go_unless_stalled(self, behaviour):
        going = asyncio.ensure_future(self.go(behaviour))
        before = None
        while not (await asyncio.wait([going], timeout=self.load.stall_seconds))[0]:
            if before == self.progress():  # looks, too: who looks again and again pauses by choice, as long as its own loop lags
                self.note += self.kernel_state()
                going.cancel()
                await asyncio.wait([going])
                raise TimeoutError
            before = self.progress()
        going.result()

    def progress(self):
        return self.sent, self.got, self.looks

    def kernel_state(self):
        """Both ends of the connection, as the kernel sees them: state, bytes in the queues to send and to receive, inode."""
        ours = f":{self.local or 0:04X}"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return "".join(
            f"; {'client' if line[1].endswith(ours) else 'server'} in state {line[3]}, queues {line[4]}, inode {line[9]}"
            for line in lines
            if line[1].endswith(ours) or line[2].endswith(ours)
        )

    # Steps.

    async def connect(self, receive_buffer=None):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        elif self.rng.random() < 0.5:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(self.sock, ("127.0.0.1", self.load.ports[self.port]))
        except ConnectionResetError:
            self.ended_by_reset()
        except ConnectionRefusedError:
            # The port of a listener that was killed is free for a moment.
            if self.port != "restarted":
                raise
            await asyncio.sleep(0.1)
            raise Ended from None
        self.local = self.sock.getsockname()[1]

    def ended_by_reset(self):
        if self.volatile:
            raise Ended from None
        raise Fault("reset")

    async def send(self, data):
        try:
            await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except (ConnectionResetError, BrokenPipeError):
            self.ended_by_reset()
        self.sent += len(data)

    def push(self, data):
        """Sends what fits now, which may be nothing."""
        try:
            self.sent += self.sock.send(data)
        except BlockingIOError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            self.ended_by_reset()

    async def send_in_parts(self, data, largest):
        """In random parts, with a pause now and then."""
        rng = self.rng
        view = memoryview(data)
        while view:
            part = view[: int(largest ** rng.random()) + 1]
            await self.send(part)
            view = view[len(part) :]
            if rng.random() < 0.05:
                await asyncio.sleep(rng.random() * 0.02)

    def widen(self):
        """Ends the time of the tiny window."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def half_close(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended_by_reset()

    async def receive(self, size=65536):
        """Verifies what comes; answers how much, 0 at the end."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, size)
        except ConnectionResetError:
            self.ended_by_reset()
        if not self.owed.startswith(data, self.got):
            self.wrong(data)
        self.got += len(data)
        self.load.verified += len(data)
        return len(data)

    def wrong(self, data):
        owed = self.owed[self.got : self.got + len(data)]
        at = next((i for i, (a, b) in enumerate(zip(owed, data)) if a != b), len(owed))
        elsewhere = self.owed.find(data[at : at + 16]) if len(data) - at >= 8 else -1
        raise Fault(
            f"wrong bytes at {self.got + at}: {data[at : at + 16].hex()} instead of {owed[at : at + 16].hex()}"
            + (f", which are those owed at {elsewhere}" if elsewhere >= 0 else ", which are owed nowhere")
        )

    async def receive_soon(self, size=65536):
        """What comes in a moment, if anything does; None if not."""
        waited = asyncio.ensure_future(self.receive(size))
        self.looks += 1
        try:
            done, _ = await asyncio.wait([waited], timeout=0.05)
        finally:
            # Also if this is cancelled: the socket is closed then.
            waited.cancel()
            await asyncio.gather(waited, return_exceptions=True)
        return waited.result() if done else None

    async def receive_all(self, size=65536):
        """All that is owed, and not a byte more so far."""
        while self.got < len(self.owed):
            if await self.receive(size) == 0:
                if self.volatile:
                    raise Ended
                raise Fault("the end came too early")

    async def receive_end(self, complete, size=65536):
        """Up to the end."""
        while await self.receive(size):
            pass
        if complete and self.got < len(self.owed):
            if self.volatile:
                raise Ended
            raise Fault("the end came too early")
        if complete:
            self.load.complete += 1

    def reset(self):
        self.note += ", reset by the client"
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    def request(self, mode, limit=0, seed=0):
        self.mode = mode
        return HEADER.pack(b"soak", ord(mode), limit, seed)

    def payload(self, largest=1 << 20):
        return self.rng.randbytes(int(largest ** self.rng.random()))

    async def exchange(self, mode, payload, end):
        """An echo of everything, ended in one of several ways; with reading and writing at once."""
        self.owed = payload
        largest = self.rng.choice((100, 5000, 70000, 1 << 20))
        if len(payload) > 100000 and largest == 100:
            largest = 5000

        async def send():
            await self.send_in_parts(self.request(mode) + payload, largest)
            if end == "half close":
                self.half_close()

        async def receive():
            if end == "half close":
                await self.receive_end(complete=True)
            else:
                await self.receive_all()
                self.load.complete += 1

        await both(send(), receive())
        if end == "reset":
            self.reset()


async def both(*coroutines):
    """All of them at once; the first exception ends the others and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# What clients do.


async def echo(client):
    await client.connect()
    await client.exchange(client.rng.choice("EEED"), client.payload(), client.rng.choice(("close", "half close", "reset")))


async def half_close(client):
    """Everything is sent, and the end of it, before anything is read."""
    await client.connect()
    client.owed = client.payload(50000)
    mode = client.rng.choice("EEDHA")
    await client.send_in_parts(client.request(mode) + client.owed, client.rng.choice((1000, 100000)))
    client.half_close()
    if client.rng.random() < 0.5:
        await asyncio.sleep(client.rng.random() * 0.3)
    await client.receive_end(complete=True)


async def pipelined(client):
    """Many small messages, no waiting for answers."""
    await client.connect()
    rng = client.rng
    messages = [rng.randbytes(rng.randint(1, 80)) for _ in range(rng.randint(1, 400))]
    client.owed = b"".join(messages)

    async def send():
        await client.send(client.request(rng.choice("EEA")))
        for message in messages:
            await client.send(message)
            if rng.random() < 0.1:
                await asyncio.sleep(0)

    await both(send(), client.receive_all())
    client.load.complete += 1


async def ping_pong(client):
    """Small messages, each answered before the next."""
    await client.connect()
    await client.send(client.request("E"))
    for _ in range(client.rng.randint(1, 60)):
        message = client.rng.randbytes(client.rng.randint(1, 200))
        client.owed += message
        await client.send(message)
        await client.receive_all()
    client.load.complete += 1


async def hang_up(client):
    """Closes in the middle of anything."""
    await client.connect()
    client.owed = client.payload()
    message = client.request(client.rng.choice("EDHA")) + client.owed
    await client.send_in_parts(message[: client.rng.randint(1, len(message))], 20000)
    if client.rng.random() < 0.5:
        await client.receive_soon()


async def reset(client):
    """The same with a reset, while there is output for it to destroy."""
    await client.connect()
    rng = client.rng
    if rng.random() < 0.5:
        size = rng.randint(1, 3000000)
        seed = rng.getrandbits(32)
        client.owed = generated(seed, size)
        await client.send(client.request("G", size, seed))
    else:
        client.owed = client.payload()
        await client.send_in_parts(client.request(rng.choice("EDHA")) + client.owed, 50000)
    for _ in range(rng.choice((0, 0, 1, 3, 20))):
        if await client.receive_soon(rng.choice((100, 65536))) == 0:
            if client.got < len(client.owed) and not client.volatile:
                raise Fault("the end came too early")
            break
    if rng.random() < 0.5:
        await asyncio.sleep(rng.random() * 0.05)
    client.reset()


async def flood_and_reset(client):
    """As fast as it goes, without a look at the answers; a reset or a half close while input and output are on their way."""
    rng = client.rng
    block = rng.randbytes(20000)
    for _ in range(rng.randint(1, 12)):
        await client.connect()
        client.sent = 0
        request = client.request(rng.choice("EDHAN"))
        for part in [request] + [block] * rng.randint(0, 6):
            client.push(part)
            await asyncio.sleep(0)
            if rng.random() < 0.1:
                client.half_close()
                break
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * 0.01)
        client.reset()
        client.note = ""


async def reset_unheard(client):
    """Resets while the server waits for something else than this client: its worker, room in its inbox, or nothing."""
    await client.connect()
    rng = client.rng
    request = client.request("N")
    await client.send(request + rng.randbytes(rng.choice((1, 1000, 70000))))
    if rng.random() < 0.5:
        # Until neither side takes any more.
        for _ in range(40):
            client.push(bytes(65536))
            await asyncio.sleep(rng.random() * 0.005)
    elif rng.random() < 0.5:
        client.half_close()
    await asyncio.sleep(rng.random() * 0.2)
    client.reset()


async def generate(client):
    """A long answer to a short question, and the end of it."""
    await client.connect()
    rng = client.rng
    size = int(3000000 ** rng.random())
    seed = rng.getrandbits(32)
    client.owed = generated(seed, size)
    await client.send(client.request("G", size, seed))
    if rng.random() < 0.5 or client.port == "native":
        client.half_close()
    await client.receive_end(complete=True)


async def slow_reader(client):
    """Hardly reads, with a tiny window; gives up, or not."""
    await client.connect(receive_buffer=client.rng.choice((2048, 4096, 20000)))
    rng = client.rng
    size = rng.randint(1000, 1500000)
    seed = rng.getrandbits(32)
    client.owed = generated(seed, size)
    await client.send(client.request("G", size, seed))
    for _ in range(rng.randint(1, 30)):
        if client.got == size or await client.receive(rng.randint(1, 3000)) == 0:
            break
        await asyncio.sleep(rng.random() * 0.1)
    match rng.choice(("close", "reset", "finish", "finish")):
        case "reset":
            client.reset()
        case "finish":
            # Through a tiny window it would take minutes.
            if size > 50000:
                client.widen()
            if client.port == "native":
                client.half_close()
            await client.receive_end(complete=True)


async def slow_echo(client):
    """Sends far more than it reads, so that both sides fill up; then reads everything."""
    await client.connect(receive_buffer=4096)
    rng = client.rng
    client.owed = rng.randbytes(rng.randint(100000, 1000000))

    async def receive():
        for _ in range(rng.randint(1, 10)):
            await asyncio.sleep(rng.random() * 0.2)
            await client.receive(500)
        client.widen()
        await client.receive_all()

    await both(client.send_in_parts(client.request(rng.choice("EDHA")) + client.owed, 100000), receive())
    client.load.complete += 1


async def connect_and_close(client):
    await client.connect()


async def idle(client):
    await client.connect()
    if client.rng.random() < 0.5:
        await client.send(client.request("E")[: client.rng.randint(1, HEADER.size)])
    waited = asyncio.ensure_future(client.receive())
    done, _ = await asyncio.wait([waited], timeout=client.rng.random() * 2)
    if not done:
        waited.cancel()
        await asyncio.gather(waited, return_exceptions=True)
    elif waited.result() == 0 and not client.volatile:
        raise Fault("the end came unasked")


async def closed_by_server(client, modes, complete):
    """The server ends it after so many bytes; more has been sent by then, which must not turn the end into a reset."""
    await client.connect()
    rng = client.rng
    client.owed = rng.randbytes(int(200000 ** rng.random()))
    # Never more than the server reads and throws away after its end.
    extra = rng.randbytes(rng.choice((0, 0, 10, 100000, 300000)))
    mode = rng.choice(modes)
    half_close_too = rng.random() < 0.3 or (client.port == "native" and mode == "C")

    async def send():
        await client.send_in_parts(client.request(mode, len(client.owed)) + client.owed + extra, 60000)
        if half_close_too:
            client.half_close()

    await both(send(), client.receive_end(complete))


async def closes(client):
    await closed_by_server(client, "C", complete=True)


async def fails(client):
    """The protocol raises, answers nonsense, or closes with output that it has not written."""
    await closed_by_server(client, "RVX", complete=False)


async def hoarded(client):
    await client.connect()
    await client.exchange("H", client.payload(), "half close")


async def answered_later(client):
    await client.connect()
    await client.exchange("A", client.payload(300000), "close")


BEHAVIOURS = {
    echo: 14,
    half_close: 8,
    pipelined: 8,
    ping_pong: 8,
    hang_up: 8,
    reset: 8,
    flood_and_reset: 6,
    reset_unheard: 6,
    generate: 6,
    slow_reader: 5,
    slow_echo: 4,
    connect_and_close: 5,
    idle: 4,
    closes: 7,
    fails: 7,
    hoarded: 6,
    answered_later: 6,
}


# The server.
