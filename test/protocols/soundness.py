"""What would end the VM if native code trusted what Python code can change, or had no bounds."""

import json
import os
import sys
import threading

import _py_reactor
import erlang
import erlang.reactor as reactor

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

_originals = {name: getattr(_py_reactor, name) for name in ("Protocol", "ReactorBuffer", "Interrupted")}


def replace_types():
    """Put other things where the native module's types are found."""
    _py_reactor.Protocol = type("Protocol", (), {"write_ready": 1, "write": 2, "datagram_received": 3})
    _py_reactor.ReactorBuffer = int
    _py_reactor.Interrupted = 5


def restore_types():
    vars(_py_reactor).update(_originals)


def types_made_again():
    """Whether a second copy of the module has types of its own."""
    del sys.modules["_py_reactor"]
    import _py_reactor as again

    return [again is not _py_reactor, *(getattr(again, name) is kept for name, kept in _originals.items())]


class _Bytes(bytes):
    __slots__ = ()


def classes_changed():
    """How many objects could be given a class whose memory is another's."""
    changed = 0
    for value, other in [
        (reactor.ReactorBuffer(b"data"), _Bytes),
        (_Bytes(b"data"), reactor.ReactorBuffer),
    ]:
        try:
            value.__class__ = other
        except TypeError:
            continue
        changed += 1
    return changed


class _Sub(reactor.Protocol):
    pass


_LINKS = {
    "client_info": lambda link, before: setattr(link, "client_info", before),
    "write_buffer": lambda link, before: setattr(link, "write_buffer", before),
    "dict": lambda link, before: setattr(link, "client_info", {"before": before}),
    "tuple": lambda link, before: setattr(link, "client_info", (before,)),
    "both": lambda link, before: (setattr(link, "client_info", before), setattr(link, "write_buffer", before)),
}


def release_chain(kind, classes, length=200_000):
    """Drop a chain of protocols, on a thread with little stack, too. Answers whether the last of it was released."""
    made = {"plain": [reactor.Protocol], "sub": [_Sub], "mixed": [reactor.Protocol, _Sub]}[classes]
    gone = []

    class Last:
        def __del__(self):
            gone.append(True)

    def chain():
        before = Last()
        for number in range(length):
            link = made[number % len(made)]()
            _LINKS[kind](link, before)
            before = link
        del link, before

    chain()
    in_small_thread(chain)
    return len(gone)


def release_handles(length=200_000):
    """Drop a chain of an event loop's handles, each the argument of the next one, on a thread with little stack."""
    gone = []

    class Last:
        def __del__(self):
            gone.append(True)

    def chain():
        loop = erlang.new_event_loop(backend="epoll")
        handle = Last()
        for _ in range(length):
            handle = loop.call_later(3600, print, handle)
        loop.close()

    in_small_thread(chain)
    return len(gone)


class _Name(str):
    __slots__ = ("compared",)
    __hash__ = str.__hash__

    def __eq__(self, other):
        if type(other) is str and other == str(self):
            self.compared()
        return False


def replace_dict_while_it_is_searched():
    """How many more references there are to the dict of an instance while native code looks whether it has a name."""
    link = _Sub()
    references = []

    def count():
        attributes = link.__dict__
        return sys.getrefcount(attributes)

    def compared():
        references.append(count() - before)
        link.__dict__ = {}

    name = _Name("write")
    name.compared = compared
    link.__dict__ = {name: 1}
    before = count()
    link.write_ready()
    return references


def replace_loop_maker():
    """Have the loops of contexts made by somebody else."""
    import erlang._loop

    erlang._loop.make_contexts = _Fake


class _Fake:
    def __getattr__(self, name):
        return lambda *args: None


def made_loop():
    import erlang

    try:
        return type(erlang.event_loop()).__name__
    except RuntimeError:
        return "none"


def in_small_thread(function, kib=128):
    """What it answers or raises on a thread with so much stack."""
    answers = []

    def run():
        try:
            answers.append(function())
        except Exception as error:
            answers.append(type(error).__name__)

    try:
        before = threading.stack_size(kib * 1024)
    except ValueError:
        # From 3.14 on a thread has at least 52 KiB.
        before = threading.stack_size(56 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return answers[0]


def nested(depth, kind):
    value = 1
    for _ in range(depth):
        value = {"list": [value], "tuple": (value,), "dict": {"value": value}}[kind]
    return value


def send_from_small_thread(to, depth, kind, kib):
    # Kept here: to release what is so deep takes more stack than that thread has, on CPython 3.13.
    value = nested(depth, kind)
    return in_small_thread(lambda: erlang.send(to, value), kib)


def call_from_small_thread(depth, kind, kib):
    """A deep answer, on its way to Python."""
    return in_small_thread(lambda: len(erlang.call("soundness_nested", depth, kind)) > 0, kib)


_INSIDE = """
import sys
sys.path[:] = {path!r}
import json, os
import erlang
import erlang.reactor as reactor

def outcome(f):
    try:
        return repr(f())
    except BaseException as error:
        return type(error).__name__

def chain():
    before = None
    for _ in range(50_000):
        link = reactor.Protocol()
        link.client_info = before
        before = link

def by_hand():
    one, other = os.pipe()
    protocol = reactor.Protocol()
    protocol.connection_made(other, {{}})
    return protocol.write(b'data'), os.read(one, 9)

os.write({out}, json.dumps({{
    "program": outcome(lambda: os.system("true")),
    "self": outcome(erlang.self),
    "send": outcome(lambda: erlang.send({name!r}, "from inside")),
    "factory": outcome(lambda: reactor.set_protocol_factory(reactor.Protocol)),
    "signal": outcome(lambda: reactor.signal_write_ready(-1)),
    "is_served": outcome(lambda: reactor.native.is_served(-1) if hasattr(reactor, "native") else False),
    "by_hand": outcome(by_hand),
    "chain": outcome(chain),
    "base": outcome(lambda: reactor.Protocol().message_received(1)),
}}).encode())
"""


def inside_another(name):
    """What an interpreter that Python code has made may do, on the calling thread."""
    one, out = os.pipe()
    inside = interpreters.create()
    try:
        interpreters.run_string(inside, _INSIDE.format(path=sys.path, out=out, name=name))
        return json.loads(os.read(one, 65536))
    finally:
        interpreters.destroy(inside)
        os.close(one)
        os.close(out)


def inside_another_on_a_thread(name):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(inside_another(name)))
    thread.start()
    thread.join()
    return answers[0]
