"""Protocols that messages make do things."""

import threading
import weakref

import recorder

import erlang
import erlang.reactor as reactor


class Mailed(recorder.Scripted):
    """Obeys messages: ("act", output, action), ("raise", text), ("buffer", output, action), ("signal", action),
    ("tell", connection, message). Notes them all."""

    def message_received(self, message):
        recorder.note(self.tag, "message_received", message if isinstance(message, (str, bytes, int, tuple)) else "object")
        match message:
            case ("act", output, action):
                self.write(output.encode())
                return action
            case ("buffer", output, action):
                self.write_buffer += output.encode()
                return action
            case ("raise", text):
                raise RuntimeError(text)
            case ("signal", action):
                reactor.signal_write_ready(self.fd)
                return action
            case ("tell", connection, text):
                recorder.note(self.tag, "told", reactor.notify(connection, text))
                recorder.note(self.tag, "went on")
            case ("close me",):
                reactor.close_connection(self.fd)
        return "continue"

    def connection_lost(self):
        super().connection_lost()
        if "watcher" in self.client_info:
            erlang.send(self.client_info["watcher"], ("lost", self.fd, self.close_reason, self.close_errno))


class Deaf(recorder.Recording):
    """Defines no message_received."""


class AlsoDeaf(recorder.Recording):
    """Nor does this one."""


class Chat(reactor.Protocol):
    """Everybody gets what anybody says, slow readers included: the neighbour goes into write mode by itself."""

    members = set()
    unread_bytes_max = 256 * 1024

    def connection_made(self, fd, client_info):
        self.members.add(self)

    def data_received(self, data):
        line = bytes(data)
        for member in tuple(self.members):
            member.notify(line)
        return "continue"

    def message_received(self, message):
        if len(self.write_buffer) + len(message) > self.unread_bytes_max:
            return "close"
        self.write_buffer += message
        return "write_pending"

    def connection_lost(self):
        self.members.discard(self)


class MadeWithMail(recorder.Recording):
    """Leaves itself a message before connection_made has returned, and when it is gone."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        reactor.notify(fd, "early")
        recorder.note(self.tag, "made")

    def message_received(self, message):
        recorder.note(self.tag, "message_received", message)
        return "continue"

    def connection_lost(self):
        reactor.notify(self.fd, "late")
        super().connection_lost()


class SaysGoodbye(recorder.Recording):
    def connection_lost(self):
        super().connection_lost()
        erlang.send("monitors_suite", "goodbye")


class Marked:
    """An object that Erlang does not know."""


_marked = weakref.WeakSet()


def tell(tag, message):
    return reactor.notify(recorder.protocol(tag).fd, message)


def tell_from_thread(tag, message):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(tell(tag, message)))
    thread.start()
    thread.join()
    return answers[0]


def tell_an_object(tag):
    marked = Marked()
    _marked.add(marked)
    return tell(tag, marked)


def marked_left():
    return len(_marked)


def handle(tag):
    return reactor.connection_handle(recorder.protocol(tag).fd)


def notify(connection, message):
    try:
        return reactor.notify(connection, message)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


def fill(tag):
    """Leaves messages until no more are taken; answers how many were."""
    fd = recorder.protocol(tag).fd
    count = 0
    while True:
        try:
            assert reactor.notify(fd, 1)
        except BlockingIOError:
            return count
        count += 1


def count_messages(tag):
    return sum(1 for method, _ in recorder.events(tag) if method == "message_received")
