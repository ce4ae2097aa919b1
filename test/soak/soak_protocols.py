"""What the contexts of the soak serve, and what they observe of the reactor's promises.

A connection begins with a header that says what the client wants; then it is an echo, in one of several styles of
writing. The first byte after the header that is owed but not sent, sent twice or out of order is seen by the client.
"""

import collections
import gc
import heapq
import itertools
import queue
import random
import struct
import sys
import threading
import time
import traceback
import zlib

import erlang.reactor as reactor

HEADER = struct.Struct(">4scxxxII")
MAGIC = b"soak"
GENERATED = 65521
HOARD_MAX = 2000


class Counter:
    """Counts from any thread, destructors included."""

    def __init__(self):
        self._count = itertools.count()

    def add(self):
        next(self._count)

    def get(self):
        return self._count.__reduce__()[1][0]


COUNTERS = {
    name: Counter()
    for name in (
        "created deleted made lost lost_twice after_lost wrong_thread reached_after_lost spurious_write_ready "
        "corrupted hoarded bad_header signals unsignalled worker_failures"
    ).split()
}
_worker_failures = []


def generated_block(seed):
    """What a "generate" connection sends again and again; the client computes the same."""
    return random.Random(seed).randbytes(GENERATED)


class Failure(Exception):
    """Raised on purpose."""


class Soak(reactor.Protocol):
    label = "?"

    def __init__(self):
        COUNTERS["created"].add()
        self.lock = threading.Lock()
        self.thread = threading.get_ident()
        self.header = b""
        self.mode = None
        self.limit = self.served = 0
        self.block = b""
        self.left = 0
        self.ending = self.waiting = self.is_lost = self.was_signalled_twice = False

    def __del__(self):
        COUNTERS["deleted"].add()

    def observe(self):
        if self.is_lost:
            COUNTERS["after_lost"].add()
        if self.thread != threading.get_ident():
            COUNTERS["wrong_thread"].add()

    def connection_made(self, fd, client_info):
        self.observe()
        COUNTERS["made"].add()

    def connection_lost(self):
        if self.thread != threading.get_ident():
            COUNTERS["wrong_thread"].add()
        with self.lock:
            COUNTERS["lost_twice" if self.is_lost else "lost"].add()
            self.is_lost = True
        if self.write(b"to nobody") != 0 or self.read() != b"":
            COUNTERS["reached_after_lost"].add()

    def data_received(self, data):
        self.observe()
        if self.mode is None:
            self.header = self.header + data
            if len(self.header) < HEADER.size:
                return "continue"
            magic, self.mode, self.limit, seed = HEADER.unpack(self.header[: HEADER.size])
            if magic != MAGIC:
                COUNTERS["bad_header"].add()
                return "close"
            data = self.header[HEADER.size :]
            self.header = b""
            if self.mode == b"G":
                self.block, self.left, self.ending = generated_block(seed), self.limit, True
                return self.generate()
            if not data:
                return "continue"
        if self.ending:
            # More than was asked for: it must not disturb what is still being delivered.
            return "write_pending"
        return self.serve(data)

    def serve(self, data):
        mode = self.mode
        if mode == b"E":
            return self.put(data)
        if mode == b"D":
            # What arrived by now may be read at once.
            action = self.put(data)
            while more := self.read(random.randrange(1, 30000)):
                action = self.put(more)
            return action
        if mode == b"H":
            hoard(data)
            return self.put(data)
        if mode == b"N":
            # Nobody signals it: only its peer's reset ends this.
            return random.choice(("async_pending", "continue"))
        if mode == b"A":
            self.waiting = True
            JOBS.put((self, bytes(data)))
            return "async_pending"
        data = data[: self.limit - self.served]
        self.served += len(data)
        action = self.put(data)
        return action if self.served < self.limit else self.limit_reached(action)

    def limit_reached(self, action):
        if self.mode == b"C":
            return self.finish()
        if self.mode == b"X":
            reactor.close_connection(self.fd)
            return action
        COUNTERS["faults " + self.label].add()
        if self.mode == b"R":
            raise Failure(self.label)
        return random.choice((None, 42, "nonsense", "Continue", b"continue", self))

    def eof_received(self):
        self.observe()
        if self.mode == b"N":
            return random.choice(("async_pending", "continue"))
        return "write_pending" if self.has_pending() else "close"

    def next_part(self):
        """The next piece of what is generated."""
        start = (self.limit - self.left) % GENERATED
        return self.block[start : start + min(self.left, 16384 + self.left % 7777)]


class Direct(Soak):
    """Writes at once, without a copy, and in write_ready only what was refused."""

    def __init__(self):
        super().__init__()
        self.pending = collections.deque()

    def has_pending(self):
        return bool(self.pending)

    def put(self, data):
        if not self.pending:
            written = self.write(data)
            if written == len(data):
                return "continue"
            data = data[written:]
        self.pending.append(data)
        return "write_pending"

    def deliver(self, data):
        self.pending.append(data)

    def generate(self):
        while self.left:
            part = self.next_part()
            written = self.write(part)
            self.left -= written
            if written < len(part):
                return "write_pending"
        return "close"

    def finish(self):
        self.ending = True
        return "write_pending" if self.pending else "close"

    def write_ready(self):
        self.observe()
        if self.waiting and not self.was_signalled_twice:
            COUNTERS["spurious_write_ready"].add()
        while self.pending:
            data = self.pending.popleft()
            written = self.write(data)
            if written < len(data):
                self.pending.appendleft(data[written:])
                return "continue"
        if self.left and self.generate() != "close":
            return "continue"
        return "close" if self.ending else "read_pending"


class Buffered(Soak):
    """Collects output in write_buffer."""

    def has_pending(self):
        return bool(self.write_buffer)

    def put(self, data):
        self.write_buffer.extend(data)
        return "write_pending"

    def deliver(self, data):
        self.write_buffer.extend(data)

    def finish(self):
        self.ending = True
        return "write_pending"


class Native(Buffered):
    """Leaves write_ready to the base class. Closes once the client has half closed."""

    def generate(self):
        while self.left:
            part = self.next_part()
            self.write_buffer.extend(part)
            self.left -= len(part)
        return "write_pending"


class Document(Buffered):
    """The style of the documentation: a write_ready of its own."""

    def generate(self):
        return "write_pending"

    def write_ready(self):
        self.observe()
        if self.waiting and not self.was_signalled_twice:
            COUNTERS["spurious_write_ready"].add()
        while self.left and len(self.write_buffer) < 65536:
            part = self.next_part()
            self.write_buffer.extend(part)
            self.left -= len(part)
        if self.write_buffer:
            written = self.write(self.write_buffer)
            del self.write_buffer[:written]
        if self.write_buffer or self.left:
            return "continue"
        return "close" if self.ending else "read_pending"


class Hoarder(Direct):
    """Keeps every buffer for a while, or a view of it, or an object cycle around it."""

    def put(self, data):
        hoard(data)
        return super().put(data)


class Mixed:
    """A factory: any style."""

    def __new__(cls):
        return random.choice(cls.classes)()


STYLES = {"direct": Direct, "native": Native, "document": Document, "hoarder": Hoarder}


def mixed(label):
    return [type(c.__name__, (c,), {"label": label}) for c in (Direct, Document)]


def serve(label, style, seed):
    """Makes the factory of this context."""
    random.seed(seed)
    COUNTERS.setdefault("faults " + label, Counter())
    if style == "mixed":
        reactor.set_protocol_factory(type("Mixed", (Mixed,), {"classes": mixed(label)}))
    else:
        reactor.set_protocol_factory(type(STYLES[style].__name__, (STYLES[style],), {"label": label}))


# Kept buffers.

HOARD = []
_order = itertools.count()


class Cycle:
    def __init__(self, data):
        self.data = data
        self.self = self


def hoard(data):
    COUNTERS["hoarded"].add()
    digest = zlib.crc32(data)
    kind = random.random()
    if kind < 0.3:
        data = memoryview(data)
    elif kind < 0.5 and isinstance(data, reactor.ReactorBuffer):
        data = data.memoryview()
    kept = Cycle(data) if kind > 0.9 else data
    until = time.monotonic() + random.expovariate(2)
    HOARD_QUEUE.put((until, next(_order), kept, digest))


def unhoard(kept, digest):
    data = kept.data if isinstance(kept, Cycle) else kept
    if zlib.crc32(data) != digest:
        COUNTERS["corrupted"].add()


def housekeep():
    """Lets go of what was hoarded, when its time has come."""
    while True:
        try:
            try:
                heapq.heappush(HOARD, HOARD_QUEUE.get(timeout=0.02))
            except queue.Empty:
                pass
            now = float("inf") if RELEASE_ALL.is_set() else time.monotonic()
            while HOARD and (HOARD[0][0] <= now or len(HOARD) > HOARD_MAX):
                unhoard(*heapq.heappop(HOARD)[2:])
        except Exception:
            failed()


def work():
    """Answers for protocols that returned "async_pending"."""
    while True:
        try:
            proto, data = JOBS.get()
            if random.random() < 0.2:
                time.sleep(random.random() * 0.004)
            answer(proto, data)
            del proto, data
        except Exception:
            failed()


def answer(proto, data):
    # Under the lock, connection_lost waits for us: the number cannot belong to another connection yet.
    with proto.lock:
        if proto.is_lost:
            return
        proto.deliver(data)
        proto.waiting = False
        COUNTERS["signals"].add()
        # Signals that nobody waits for are to do nothing; one that comes late ends the next wait.
        count = random.choice((1, 1, 1, 2, 3))
        proto.was_signalled_twice |= count > 1
        for _ in range(count):
            if not reactor.signal_write_ready(proto.fd):
                COUNTERS["unsignalled"].add()


def failed():
    COUNTERS["worker_failures"].add()
    _worker_failures.append(traceback.format_exc())
    del _worker_failures[10:]


JOBS = queue.SimpleQueue()
HOARD_QUEUE = queue.SimpleQueue()
RELEASE_ALL = threading.Event()
for _target in (work, work, housekeep):
    threading.Thread(target=_target, daemon=True).start()


def let_go():
    """Gives every kept buffer back, while no client is there."""
    RELEASE_ALL.set()
    deadline = time.monotonic() + 5
    while (HOARD or not HOARD_QUEUE.empty()) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.05)
    RELEASE_ALL.clear()
    for generation in (0, 1, 2):
        gc.collect(generation)


def counts():
    return {name: counter.get() for name, counter in list(COUNTERS.items())}


def worker_failures():
    return "\n".join(_worker_failures)


def allocator():
    """The allocator of objects, where Python can say."""
    try:
        import _testcapi

        return _testcapi.pymem_getallocatorsname()
    except Exception:
        return "unknown"


def blocks():
    return sys.getallocatedblocks()
