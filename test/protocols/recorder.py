"""Writes down which callbacks ran. Connections are told apart by the "tag" of their client_info."""

import threading

import erlang.reactor as reactor

_events = {}
_protocols = {}
_released = {}


def note(tag, method, detail=""):
    _events.setdefault(tag, []).append((method, detail))


def events(tag):
    """What happened to a connection, as (method, detail) in order."""
    return list(_events.get(tag, []))


def protocol(tag):
    return _protocols[tag]


def peer_closed(tag):
    return _protocols[tag].peer_closed


def release(tag):
    """Lets threads of that connection go on."""
    _released[tag].set()


def signal(tag):
    return reactor.signal_write_ready(_protocols[tag].fd)


def signal_from_thread(tag):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(signal(tag)))
    thread.start()
    thread.join()
    return answers[0]


def close(tag):
    reactor.close_connection(_protocols[tag].fd)


def use_up(tag):
    """What a protocol can still reach after its connection is gone."""
    proto = _protocols[tag]
    return [proto.closed, [proto.write(b"x" * n) for n in range(1, 50)], [proto.read() for _ in range(50)]]


def forget(tag):
    _events.pop(tag, None)
    _protocols.pop(tag, None)
    _released.pop(tag, None)


class Recording(reactor.Protocol):
    """An echo by way of the base class's write_ready, which writes down every callback."""

    def connection_made(self, fd, client_info):
        self.tag = client_info.get("tag")
        _protocols[self.tag] = self
        _released[self.tag] = threading.Event()
        note(self.tag, "connection_made")

    def data_received(self, data):
        note(self.tag, "data_received", bytes(data))
        self.write_buffer.extend(data)
        return "write_pending"

    def eof_received(self):
        note(self.tag, "eof_received")
        return "close"

    def connection_lost(self):
        note(self.tag, "connection_lost", "closed" if self.closed else "open")


class Scripted(Recording):
    """Does what client_info["script"] says: {method: [(output, answer), ...]}, one step for each call, the last for ever.

    An answer is an action (or what is not one), or one of
    ("raise", message), ("signal", action): signals itself first, ("thread", action): another thread does so first,
    ("later", action): another thread does so once release(tag) was called.
    """

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.script = {method: list(steps) for method, steps in client_info.get("script", {}).items()}
        self._step("connection_made", None)

    def data_received(self, data):
        note(self.tag, "data_received", bytes(data))
        return self._step("data_received", "continue")

    def write_ready(self):
        note(self.tag, "write_ready")
        return self._step("write_ready", "read_pending")

    def eof_received(self):
        note(self.tag, "eof_received")
        return self._step("eof_received", "close")

    def connection_lost(self):
        super().connection_lost()
        self._step("connection_lost", None)

    def _step(self, method, otherwise):
        steps = self.script.get(method)
        if not steps:
            return otherwise
        output, answer = steps.pop(0) if len(steps) > 1 else steps[0]
        if output:
            self.write(output.encode())
        if not isinstance(answer, tuple):
            return answer
        kind, value = answer
        fd = self.fd
        if kind == "raise":
            raise RuntimeError(value)
        if kind == "signal":
            note(self.tag, "signalled", reactor.signal_write_ready(fd))
        elif kind == "thread":
            thread = threading.Thread(target=reactor.signal_write_ready, args=(fd,))
            thread.start()
            thread.join()
        elif kind == "later":
            released = _released[self.tag]
            threading.Thread(target=lambda: released.wait() and reactor.signal_write_ready(fd)).start()
        return value


class Everywhere(Recording):
    """Each callback, and whoever makes it, calls `self.see(name)`, which notes what it sees in `self.seen`."""

    def __init__(self):
        self.seen = []
        self.see("factory")

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.see("connection_made")

    def data_received(self, data):
        self.see("data_received")
        return "write_pending"

    def write_ready(self):
        self.see("write_ready")
        self.write(b"w")
        return "read_pending"

    def message_received(self, message):
        self.see("message_received")
        return "continue"

    def eof_received(self):
        self.see("eof_received")
        return "close"

    def connection_lost(self):
        self.see("connection_lost")
        super().connection_lost()


class Quiet(reactor.Protocol):
    """An echo that writes nothing down."""

    def data_received(self, data):
        self.write(data)
        return "continue"
