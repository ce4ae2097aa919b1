"""Protocols whose connections are named from elsewhere: by methods, handles and other threads."""

import threading

import erlang.reactor as reactor
import recorder


class Slow(recorder.Recording):
    """Answers from a worker, which waits for release(tag); its answer is noted as ("signalled", bool)."""

    def data_received(self, data):
        threading.Thread(target=self.work, args=(bytes(data),)).start()
        return "async_pending"

    def work(self, request):
        recorder._released[self.tag].wait()
        self.write_buffer.extend(request[::-1])
        recorder.note(self.tag, "signalled", self.signal_write_ready())


class Mailed(recorder.Recording):
    """Notes its messages, and waits after data."""

    def data_received(self, data):
        recorder.note(self.tag, "data_received", bytes(data))
        return "async_pending"

    def message_received(self, message):
        recorder.note(self.tag, "message_received", message)
        return "continue"


class Taken(recorder.Recording):
    """Has attributes of these names for itself."""

    def __init__(self):
        self.handle = "mine"
        self.close = self.signal_write_ready = None

    def notify(self):
        raise AssertionError("this is not the reactor's")

    def data_received(self, data):
        assert self.handle == "mine" and self.close is None
        self.write(data)
        return "close"


def in_thread(function, *args):
    """What it answers, or raises, in a thread that is not a context's."""
    answers = []

    def run():
        try:
            answers.append(function(*args))
        except Exception as exc:
            answers.append(f"{type(exc).__name__}: {exc}")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[0]


def method(tag, name, *args):
    return getattr(recorder.protocol(tag), name)(*args)


def method_from_thread(tag, name, *args):
    return in_thread(method, tag, name, *args)


def handle(tag):
    return recorder.protocol(tag).handle


def function(name, *args):
    return getattr(reactor, name)(*args)


def function_from_thread(name, *args):
    return in_thread(function, name, *args)


def is_found(tag, connection):
    return reactor.get_protocol(connection) is recorder.protocol(tag)


def is_found_from_thread(tag, connection):
    return in_thread(is_found, tag, connection)


def class_found(connection):
    """Of a connection anywhere."""
    try:
        return type(reactor.get_protocol(connection)).__name__
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


def use_by_name(connection):
    """What all functions answer."""
    return [
        reactor.get_protocol(connection),
        reactor.signal_write_ready(connection),
        reactor.notify(connection, 1),
        reactor.connection_handle(connection),
        reactor.close_connection(connection),
    ]


def handles_of_no_connection():
    wrong = []
    for connection in [(1, 2), (1, "2", 3), "1", None]:
        for name in ["get_protocol", "signal_write_ready", "connection_handle", "close_connection"]:
            try:
                wrong.append(getattr(reactor, name)(connection))
            except TypeError:
                pass
    return wrong


def handle_by_hand():
    """Connections that are driven by hand inside the VM, over one number."""
    import socket

    here, peer = socket.socketpair()
    with here, peer:
        fd = here.fileno()
        first = reactor.init_connection(fd, {})
        handle = first.handle
        assert reactor.connection_handle(fd) == handle and reactor.get_protocol(handle) is first
        assert first.notify("one") and first.signal_write_ready()
        assert first.get_extra_info("socket").fileno() not in (-1, fd)
        first.close()
        assert first.closed and first.handle == handle
        second = reactor.init_connection(fd, {})
        assert second.handle != handle and reactor.get_protocol(handle) is None
        first.close()
        assert not second.closed and not first.notify("two") and not first.signal_write_ready()
        reactor.close_connection(second.handle)
        assert second.closed
    return True
