"""Coroutine functions that Erlang calls, and protocols whose callbacks are some."""

import asyncio
import contextlib
import contextvars
import gc
import threading
import time

import recorder

log = []


async def sleep(seconds, value):
    await asyncio.sleep(seconds)
    return value


together = {}


async def sleep_together(name, count, value):
    """Sleeps until so many do."""
    all_sleep, sleepers = together.setdefault(name, (asyncio.Event(), []))
    sleepers.append(value)
    if len(sleepers) == count:
        all_sleep.set()
    async with asyncio.timeout(3600):
        await all_sleep.wait()
    return value


# By thread, which is by context.
wakes = threading.local()


async def sleep_until_woken():
    wakes.up = getattr(wakes, "up", None) or asyncio.Event()
    async with asyncio.timeout(3600):
        await wakes.up.wait()
    return "woken"


def wake_all():
    wakes.up.set()
    wakes.up = None


async def hold_on(name):
    """Says that it has begun, and how it ends."""
    import erlang

    erlang.send(name, "begun")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        erlang.send(name, "cancelled")
        raise


async def hold_on_to(name):
    """Swallows its cancellation, and goes on."""
    import erlang

    erlang.send(name, "begun")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def fail():
    await asyncio.sleep(0)
    return 1 / 0


def runs_its_own():
    return asyncio.run(sleep(0.01, "by its own"))


def tasks():
    """How many tasks there are in this context."""
    import erlang

    return len(asyncio.all_tasks(erlang.event_loop()))


who = contextvars.ContextVar("who", default=b"nobody")


class Awaits(recorder.Recording):
    """Does what the data names, and answers when that is done."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.go = asyncio.Event()

    def note(self, what):
        recorder.note(self.tag, what)

    async def data_received(self, data):
        self.note(bytes(data).decode())
        return await getattr(self, bytes(data).decode())()

    def message_received(self, message):
        if message == "go":
            self.go.set()
            return "continue"
        return message

    def eof_received(self):
        self.note("eof_received")
        return "close"

    async def echo(self):
        await asyncio.sleep(0.001)
        self.write(b"echo")
        return "continue"

    async def pending(self):
        self.write_buffer += b"pending"
        return "write_pending"

    async def bye(self):
        self.write(b"bye")
        return "close"

    async def fails(self):
        await asyncio.sleep(0)
        return 1 / 0

    async def wrong(self):
        return "nothing"

    async def variable(self):
        who.set(who.get() + b"+")
        await asyncio.sleep(0)
        self.write(who.get())
        return "continue"

    async def hold(self):
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.note("cancelled")
            raise
        self.write(b"held")
        return "continue"

    async def holds_a_while(self):
        await asyncio.sleep(0.3)
        self.write(b"held")
        return "continue"

    async def swallow(self):
        while not self.go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.go.wait()

    async def stubborn(self):
        """Catches whatever is raised, also when it is destroyed, when nothing can be awaited any more."""
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(3600)

    async def until_released(self):
        while not recorder._released[self.tag].is_set():
            await asyncio.sleep(0.01)
        self.note("released")

    async def closes(self):
        self.close()
        await asyncio.sleep(0.05)
        self.note("went on")
        return "continue"

    async def own(self):
        self.create_task(self.hold())
        self.call_later(3600, self.note, "never")
        self.call_later(0.001, self.write, b"later")
        return "continue"

    async def own_fails(self):
        self.create_task(self.fails())
        return "continue"

    async def timer_fails(self):
        self.call_later(0, self.raises)
        return "continue"

    def raises(self):
        raise LookupError("in a timer")


class Patient(Awaits):
    cancel_on_disconnect = False


class Many(recorder.Recording):
    """Does what the data names so many times, and answers with the seconds of its thread that it took."""

    async def data_received(self, data):
        what, count = bytes(data).decode().split()
        began = time.thread_time()
        await getattr(self, what)(int(count))
        self.write(b"%012.6f" % (time.thread_time() - began))
        return "continue"

    async def tasks(self, count):
        """Who began first ends last."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(count)]

        async def one(future):
            await future

        tasks = [self.create_task(one(future)) for future in futures]
        await asyncio.sleep(0)
        for future in reversed(futures):
            future.set_result(None)
        await tasks[0]
        # What has ended is forgotten by then.
        await asyncio.sleep(0.01)

    async def timers(self, count):
        """There is never room for one more."""
        timers = [self.call_later(3600, print) for _ in range(count - 1)]
        for nth in range(count - 1):
            timers[nth].cancel()
            timers[nth] = self.call_later(3600, print)
        for timer in timers:
            timer.cancel()


class Clocked(recorder.Recording):
    """Answers how long its thread has computed since the last time, in nanoseconds."""

    clock = 0

    def data_received(self, data):
        before, self.clock = self.clock, time.thread_time_ns()
        self.write(b"%012d" % (self.clock - before))
        return "continue"


class Impatient(recorder.Recording):
    """Sets as many timers as it is told, and cancels each; answers how many timers are kept."""

    def data_received(self, data):
        for _ in range(int(data)):
            self.call_later(3600, print).cancel()
        kept = sum(type(thing).__name__ == "TimerHandle" for thing in gc.get_objects())
        self.write(b"%08d" % kept)
        return "continue"


class Everything(recorder.Recording):
    """All callbacks that may be are `async def`."""

    async def data_received(self, data):
        await asyncio.sleep(0)
        return "write_pending"

    async def write_ready(self):
        await asyncio.sleep(0)
        self.write(b"w")
        return "read_pending"

    async def message_received(self, message):
        await asyncio.sleep(0)
        self.write(message.encode())
        return "continue"

    async def eof_received(self):
        await asyncio.sleep(0)
        self.write(b"eof")
        return "close"


class Together(recorder.Recording):
    """Answers datagrams when so many have arrived as the first says."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.all = asyncio.Event()
        self.seen = self.most = self.now = 0

    async def datagram_received(self, data, addr):
        self.seen += 1
        self.now += 1
        self.most = max(self.most, self.now)
        if self.seen == int(data):
            self.all.set()
        await self.all.wait()
        self.now -= 1
        self.sendto(b"%d" % self.seen, addr)
        return "continue"


def most(tag):
    return recorder.protocol(tag).most


def closed(tag):
    return recorder.protocol(tag).closed


def handles():
    """What the loop has to run, but for what is cancelled."""
    import erlang

    loop = erlang.event_loop()
    return sum(not handle._cancelled for handle in [*loop._ready, *loop._scheduled])


def waiting():
    """Tasks, and handles of the loop."""
    return [tasks(), handles()]


def left():
    """What is left of connections that have ended: tasks, protocols, handles of the loop."""
    recorder._protocols.clear()
    gc.collect()
    protocols = sum(isinstance(thing, Awaits) for thing in gc.get_objects())
    return [tasks(), protocols, handles()]


def begins_and_ends(name):
    """What runs when a context starts and stops says so."""
    import erlang
    import erlang.reactor as reactor

    @reactor.on_start
    async def begins():
        await asyncio.sleep(0)
        erlang.send(name, "started")

    reactor.on_start(lambda: erlang.send(name, "started plainly"))
    reactor.on_stop(lambda: erlang.send(name, "stopped plainly"))

    @reactor.on_stop
    async def ends():
        await asyncio.sleep(0.05)
        erlang.send(name, "stopped")

    reactor.on_stop(lambda: 1 / 0)
    reactor.spawn(hold_on(name))


def left_at_the_end(name, forever=False):
    """A task that says when it is cancelled, and what is to run at the end, but never ends."""
    import erlang
    import erlang.reactor as reactor

    async def cleans_up():
        try:
            await hold_on(name)
        finally:
            await asyncio.sleep(0)
            erlang.send(name, "cleaned up")

    reactor.spawn(cleans_up())
    if forever:
        reactor.on_stop(asyncio.Event().wait)


def spawns_failure():
    import erlang.reactor as reactor

    reactor.spawn(fail())
