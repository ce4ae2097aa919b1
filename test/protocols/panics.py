"""Panics of the native half, provoked from Python.

PyO3 takes its own PanicException for a panic of Rust that travels through Python, and lets it go on in Rust. So an
exception of that very type is a panic wherever the native half has called Python.
"""

from recorder import Recording

PROVOKED = "provoked by a test"


def panic(*_ignored):
    # It is there once Rust has seen an exception; with it go the classes of other libraries that use PyO3.
    kinds = [kind for kind in BaseException.__subclasses__() if kind.__name__ == "PanicException"]
    raise kinds[0](PROVOKED)


class OnDemand(Recording):
    """Panics when it receives "panic"; until then, an echo."""

    def data_received(self, data):
        return panic() if data == b"panic" else super().data_received(data)


class AtTheEnd(OnDemand):
    """Panics when it loses its connection as well."""

    def connection_lost(self):
        super().connection_lost()
        panic()
