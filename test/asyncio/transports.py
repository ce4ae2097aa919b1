#!/usr/bin/env python3
"""The scenarios of test/protocols/transports.py over loops of one's own, in a plain Python, on each backend that works here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import signal
import socket
import sys
import threading
import unittest
import warnings
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "priv" / "alone"), str(ROOT / "test" / "protocols")]

import erlang  # noqa: E402
import transports  # noqa: E402
import transports_buffered  # noqa: E402
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


def elsewhere(function: Any) -> Any:
    """What it answers, called on a thread of its own."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(function()))
    thread.start()
    thread.join()
    return answers.pop()


class BufferedEcho(transports.Echo, asyncio.BufferedProtocol):
    """An echo that has a buffer of its own."""

    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(10_000)
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.transport.write(bytes(self.buffer[:count]))


class Own:
    """What only a loop of one's own can show."""

    backend = ""
    assertEqual: Any
    assertRaises: Any
    assertRaisesRegex: Any
    assertWarns: Any
    assertIn: Any
    assertFalse: Any

    def setUp(self) -> None:
        self.before = descriptors()
        self.loop = erlang.new_event_loop(backend=self.backend)  # type: ignore[arg-type]
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)

    def make(self, kind: Any = transports.Recorder) -> tuple[asyncio.Transport, Any]:
        return self.loop.run_until_complete(self.loop.connect_accepted_socket(kind, self.ours))

    def close(self) -> None:
        self.theirs.close()
        self.loop.close()
        self.ours.close()
        self.assertEqual(descriptors(), self.before)

    def test_what_the_last_turn_writes_has_left(self) -> None:
        async def main() -> None:
            transport, _ = await self.loop.connect_accepted_socket(transports.Recorder, self.ours)
            transport.write(b"last")
            transport.close()

        self.loop.run_until_complete(main())
        self.assertEqual(self.theirs.recv(10, socket.MSG_DONTWAIT), b"last")
        self.loop.run_until_complete(transports.until(lambda: self.ours.fileno() == -1))
        self.close()

    def test_between_two_runs(self) -> None:
        transport, protocol = self.make()
        transport.write(b"between")
        self.theirs.send(b"runs")
        self.loop.run_until_complete(transports.until(lambda: protocol.data == b"runs"))
        self.assertEqual(self.theirs.recv(10, socket.MSG_DONTWAIT), b"between")
        transport.close()
        self.loop.run_until_complete(protocol.lost)
        self.close()

    def test_a_loop_that_is_closed_leaves_sockets_to_their_transports(self) -> None:
        transport, protocol = self.make()
        references = [weakref.ref(transport), weakref.ref(protocol)]
        self.loop.close()
        self.assertEqual(self.ours.fileno(), transport.get_extra_info("socket").fileno())
        with self.assertRaises(RuntimeError):
            transport.close()
        with self.assertRaisesRegex(RuntimeError, "closed"):
            self.loop._make_socket_transport(self.theirs, protocol)  # type: ignore[attr-defined]
        del protocol
        with self.assertWarns(ResourceWarning) as warned:
            del transport
            gc.collect()
        self.assertIn("unclosed transport", str(warned.warning))
        self.assertEqual(self.ours.fileno(), -1)
        # The warning has its source.
        del warned
        gc.collect()
        self.assertEqual([reference() for reference in references], [None, None])
        self.close()

    def test_a_loop_that_nobody_closes_is_collected_with_its_transports(self) -> None:
        transport, protocol = self.make()
        references = [weakref.ref(self.loop), weakref.ref(transport), weakref.ref(protocol)]
        del transport, protocol, self.loop
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        self.assertEqual([reference() for reference in references], [None, None, None])
        self.assertEqual(self.ours.fileno(), -1)
        self.theirs.close()
        self.assertEqual(descriptors(), self.before)

    def test_on_another_thread_the_connection_goes_on(self) -> None:
        """What drives a loop belongs to a thread; its connections go along."""
        transport, protocol = self.make(transports.Echo)
        self.theirs.settimeout(30)

        async def exchange() -> bytes:
            self.theirs.send(b"there")
            return await asyncio.to_thread(self.theirs.recv, 10)

        for run in (elsewhere, elsewhere, lambda function: function(), elsewhere):
            self.assertEqual(run(lambda: self.loop.run_until_complete(exchange())), b"there")
        transport.write(b"between")
        elsewhere(lambda: self.loop.run_until_complete(asyncio.sleep(0)))
        self.assertEqual(self.theirs.recv(10), b"between")
        elsewhere(lambda: self.loop.run_until_complete(self.loop.shutdown_default_executor()))
        transport.close()
        self.assertEqual(elsewhere(lambda: self.loop.run_until_complete(protocol.lost)), None)
        self.assertEqual(self.theirs.recv(10), b"")
        self.theirs.close()
        elsewhere(self.loop.close)
        self.assertEqual(descriptors(), self.before)

    def test_nothing_is_lost_on_the_way(self) -> None:
        """Stopped in the middle of whatever runs, again and again, on one thread after the other."""
        for kind in (transports.Echo, BufferedEcho):
            ends = [socket.socketpair() for _ in range(4)]
            for ours, theirs in ends:
                ours.setblocking(False)
                theirs.settimeout(60)
            made = [self.loop.run_until_complete(self.loop.connect_accepted_socket(kind, ours)) for ours, _ in ends]
            sizes = [3, 70_000, 3_000_000, 9_000_000]
            wants = [bytes(range(nth, 250 + nth)) * (size // 250 + 1) for nth, size in enumerate(sizes)]
            gets = [bytearray() for _ in wants]

            def receive(nth: int, gets: Any = gets, wants: Any = wants, ends: Any = ends) -> None:
                while len(gets[nth]) < len(wants[nth]):
                    gets[nth] += ends[nth][1].recv(100_000)

            peers = [threading.Thread(target=ends[nth][1].sendall, args=(wants[nth],)) for nth in range(4)]
            peers += [threading.Thread(target=receive, args=(nth,)) for nth in range(4)]
            for peer in peers:
                peer.start()
            moves = 0
            while any(peer.is_alive() for peer in peers):
                # Many stop at once, some after a while.
                elsewhere(lambda moves=moves: self.loop.run_until_complete(asyncio.sleep(moves % 4 * 0.0005)))
                moves += 1
            self.assertEqual(gets, wants)
            for transport, _ in made:
                transport.close()
            elsewhere(lambda made=made: self.loop.run_until_complete(asyncio.gather(*[one.lost for _, one in made])))
            for _, theirs in ends:
                theirs.close()
        self.close()

    def test_no_buffer_is_asked_for_once_the_loop_has_stopped(self) -> None:
        """A signal ends it, perhaps just when something has arrived: that is kept, and copied into one later."""
        asked, stopped = [], False

        class Asked(transports_buffered.Own):
            def get_buffer(self, sizehint: int) -> bytearray:
                asked.append(stopped)
                return self.own  # type: ignore[no-any-return]

        def stop(*_: Any) -> None:
            nonlocal stopped
            stopped = True
            raise Interrupt

        transport, protocol = self.make(Asked)
        before = signal.signal(signal.SIGALRM, stop)
        try:
            for delay in range(1, 300):
                stopped = False
                self.loop.call_soon(signal.setitimer, signal.ITIMER_REAL, delay / 1e6)
                self.loop.call_soon(self.theirs.sendall, transports_buffered.MUCH)
                with self.assertRaises(Interrupt):
                    self.loop.run_forever()
        finally:
            signal.signal(signal.SIGALRM, before)
        self.assertIn(False, asked)
        self.assertFalse(any(asked))
        transport.close()
        self.loop.run_until_complete(protocol.lost)
        self.close()

    def test_what_happens_in_between_is_told_elsewhere(self) -> None:
        transport, protocol = self.make()
        protocol.stays = True
        transport.pause_reading()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.theirs.send(b"before")
        elsewhere(lambda: self.loop.run_until_complete(asyncio.sleep(0.01)))
        transport.resume_reading()
        self.theirs.send(b" and after")
        self.theirs.shutdown(socket.SHUT_WR)
        elsewhere(lambda: self.loop.run_until_complete(transports.until(lambda: "eof" in protocol.told)))
        self.assertEqual(protocol.data, b"before and after")
        elsewhere(lambda: self.loop.run_until_complete(asyncio.sleep(0.01)))
        transport.write(b"late")
        transport.close()
        elsewhere(lambda: self.loop.run_until_complete(protocol.lost))
        self.assertEqual(self.theirs.recv(10), b"late")
        self.close()

    def test_a_server_that_is_closed_elsewhere_leaves_its_connections(self) -> None:
        made: list[Any] = []
        server = self.loop.run_until_complete(
            self.loop.create_server(lambda: made.append(transports.Echo()) or made[-1], "127.0.0.1", 0)
        )
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.settimeout(30)
            elsewhere(lambda: self.loop.run_until_complete(transports.until(lambda: made and made[0].told)))
            elsewhere(server.close)
            client.sendall(b"still")

            async def receive() -> bytes:
                return await asyncio.to_thread(client.recv, 10)

            self.assertEqual(self.loop.run_until_complete(receive()), b"still")
            made[0].transport.close()
            elsewhere(lambda: self.loop.run_until_complete(made[0].lost))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.ours.close()
        self.close()

    def test_what_wraps_asyncios_functions_is_called(self) -> None:
        """It has the module of what it wraps, and may have the same names."""
        heard: list[str] = []

        def note(what: str) -> None:
            heard.append(what)

        @functools.wraps(asyncio.Protocol.eof_received)
        def eof_received(self: Any) -> None:
            note("eof")

        @functools.wraps(asyncio.StreamReader._wakeup_waiter)  # type: ignore[attr-defined]
        def wakeup(self: Any) -> None:
            waiter = self._waiter
            if waiter is not None:
                self._waiter = None
                if not waiter.cancelled():
                    waiter.set_result(None)
            note("wakeup")

        # What it need not call it has looked up when it was made.
        self.loop.close()
        with (
            mock.patch.object(asyncio.Protocol, "eof_received", eof_received),
            mock.patch.object(asyncio.StreamReader, "_wakeup_waiter", wakeup),
        ):
            self.loop = erlang.new_event_loop(backend=self.backend)  # type: ignore[arg-type]

            class Quiet(asyncio.Protocol):
                pass

            self.make(Quiet)
            self.theirs.shutdown(socket.SHUT_WR)
            self.loop.run_until_complete(transports.until(lambda: heard == ["eof"]))
            self.theirs.close()
            self.loop.run_until_complete(transports.until(lambda: self.ours.fileno() == -1))

            heard.clear()
            self.ours, self.theirs = socket.socketpair()
            self.ours.setblocking(False)
            reader = asyncio.StreamReader(loop=self.loop)
            transport, _ = self.make(lambda: asyncio.StreamReaderProtocol(reader, loop=self.loop))
            self.theirs.send(b"line\n")
            self.loop.run_until_complete(transports.until(lambda: heard == ["wakeup"]))
            transport.close()
            self.loop.run_until_complete(transports.until(lambda: self.ours.fileno() == -1))
        self.close()

    def test_keyboard_interrupt_ends_the_run(self) -> None:
        class Interrupting(transports.Recorder):
            def data_received(self, data: bytes) -> None:
                raise KeyboardInterrupt

        transport, protocol = self.make(Interrupting)
        self.theirs.send(b"x")
        with self.assertRaises(KeyboardInterrupt):
            self.loop.run_until_complete(asyncio.sleep(60))
        self.assertFalse(transport.is_closing())
        transport.close()
        self.loop.run_until_complete(protocol.lost)
        self.close()

    def test_a_loop_that_is_never_closed_leaves_no_descriptor(self) -> None:
        self.make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.loop.close()
            del self.loop
            gc.collect()
        self.theirs.close()
        self.ours.close()
        self.assertEqual(descriptors(), self.before)


for _backend in filter(works, ("epoll", "uring")):
    _tests = {f"test_{name}": case(_backend, scenario) for name, scenario in transports.SCENARIOS.items()}
    globals()[f"Own_{_backend}"] = type(f"Own_{_backend}", (Own, unittest.TestCase), {"backend": _backend})
    globals()[f"Transports_{_backend}"] = type(f"Transports_{_backend}", (unittest.TestCase,), _tests)


if __name__ == "__main__":
    unittest.main()
