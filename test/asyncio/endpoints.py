#!/usr/bin/env python3
"""The scenarios of test/protocols/endpoints.py over loops of one's own, in a plain Python, on each backend that works here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import unittest
import warnings
import weakref
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "priv" / "alone"), str(ROOT / "test" / "protocols")]

import endpoints  # noqa: E402
import endpoints_datagrams  # noqa: E402
import erlang  # noqa: E402
from endpoints import Interrupt  # noqa: E402
from own_loops import descriptors, works  # noqa: E402


def case(backend: str, scenario: Any) -> Any:
    def test(self: unittest.TestCase) -> None:
        before = descriptors()
        loop = erlang.new_event_loop(backend=backend)  # type: ignore[arg-type]
        try:
            running = loop.create_task(asyncio.wait_for(scenario(loop), 60))
            while not running.done():
                with contextlib.suppress(Interrupt):
                    loop.run_until_complete(running)
            running.result()
        finally:
            loop.close()
        self.assertEqual(descriptors(), before)

    return test


class Own:
    """What only a loop of one's own can show."""

    backend = ""

    def test_what_the_last_turn_sends_has_left(self) -> None:
        loop = erlang.new_event_loop(backend=self.backend)  # type: ignore[arg-type]
        ours, theirs = endpoints_datagrams.named_pair()

        kept: list[asyncio.DatagramTransport] = []

        async def main() -> None:
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=ours)
            transport.sendto(b"last")
            kept.append(transport)

        loop.run_until_complete(main())
        self.assertEqual(theirs.recv(10, socket.MSG_DONTWAIT), b"last")
        kept[0].abort()
        loop.run_until_complete(asyncio.sleep(0))
        theirs.close()
        loop.close()

    def test_endpoints_that_nobody_closes_are_collected(self) -> None:
        gone = []
        loop = erlang.new_event_loop(backend=self.backend)  # type: ignore[arg-type]

        async def main() -> None:
            transport, protocol = await loop.create_datagram_endpoint(
                endpoints_datagrams.Datagrams, local_addr=("127.0.0.1", 0)
            )
            transport.sendto(b"x", transport.get_extra_info("sockname"))
            gone.extend([weakref.ref(transport), weakref.ref(protocol)])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            loop.run_until_complete(main())
            loop.close()
            del loop
            gc.collect()
        self.assertEqual([reference() for reference in gone], [None, None])


for _backend in filter(works, ("epoll", "uring")):
    _tests = {f"test_{name}": case(_backend, scenario) for name, scenario in endpoints.SCENARIOS.items()}
    globals()[f"Own_{_backend}"] = type(f"Own_{_backend}", (Own, unittest.TestCase), {"backend": _backend})
    globals()[f"Endpoints_{_backend}"] = type(f"Endpoints_{_backend}", (unittest.TestCase,), _tests)


if __name__ == "__main__":
    unittest.main()
