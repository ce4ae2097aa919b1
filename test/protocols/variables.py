"""Protocols that look at context variables, and change them."""

import contextvars
import decimal

import recorder

who = contextvars.ContextVar("who", default="nobody")


class Sees(recorder.Everywhere):
    """Notes what each callback sees, and sets its own name."""

    def see(self, name):
        self.seen.append((name, who.get(), decimal.getcontext().prec))
        who.set(name)
        decimal.getcontext().prec += 1


class Datagrams(Sees):
    def datagram_received(self, data, addr):
        self.see("datagram_received")
        self.sendto(b"w", addr)
        return "continue"

    def error_received(self, exc):
        self.see("error_received")


class Runs(recorder.Recording):
    """Runs code in contexts of its own, and a coroutine; raises at last."""

    def data_received(self, data):
        who.set("outer")
        copied = contextvars.copy_context()
        copied.run(copied.copy().run, who.set, "inner")

        async def coroutine():
            before = who.get()
            who.set("coroutine")
            return before

        def run():
            try:
                coroutine().send(None)
            except StopIteration as end:
                return end.value

        answer = [who.get(), copied.run(who.get), contextvars.copy_context().run(run), who.get()]
        self.write(repr(answer).encode())
        if data == b"raise":
            raise RuntimeError("now")
        return "continue"


def seen(tag):
    return recorder.protocol(tag).seen


def outside():
    return [who.get(), decimal.getcontext().prec]


def set_outside(name):
    who.set(name)
