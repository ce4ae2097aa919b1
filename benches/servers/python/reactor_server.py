"""What a context of py_reactor is told to serve."""

from __future__ import annotations

import reactor_protocols

import erlang.reactor as reactor


def serve(case: str, style: str) -> None:
    """Makes this context serve ``case`` in ``style``."""
    protocols = reactor_protocols.PROTOCOLS
    if case == "http":
        # It needs packages that not everybody has.
        from reactor_http import PROTOCOLS as protocols
    reactor.set_protocol_factory(protocols[case, style])
