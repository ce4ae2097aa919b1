#!/usr/bin/env python3
"""What CPython's tests do not ask of servers and connects of a loop of one's own.

In a plain Python; on each backend that works here.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import os
import resource
import select
import socket
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any

from own_loops import descriptors, erlang, until, works


class Greet(asyncio.Protocol):
    """Says hello, and closes."""

    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()


def ask(address: Any) -> bytes:
    with socket.create_connection(address, timeout=20) as client:
        answer = b""
        while data := client.recv(100):
            answer += data
        return answer


def waits(thread: int) -> bool:
    """Whether a thread is in the call in which a loop waits."""
    return Path(f"/proc/self/task/{thread}/syscall").read_text().split()[0] in ("232", "281", "426")


class Servers:
    backend = ""

    def setUp(self) -> None:
        self.loop = erlang.new_event_loop(backend=self.backend)
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))

    def tearDown(self) -> None:
        self.loop.close()

    def run_for(self, coro: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coro, 30))

    def serve(self, factory: Any = Greet, **options: Any) -> tuple[Any, Any]:
        server = self.run_for(self.loop.create_server(factory, "127.0.0.1", 0, **options))
        return server, server.sockets[0].getsockname()

    def in_thread(self, *args: Any) -> asyncio.Future[Any]:
        return self.loop.run_in_executor(None, ask, *args)

    def test_many_at_once(self) -> None:
        # Where there is no room for all, the kernel may forget one that takes itself for connected.
        lost: list[object] = []

        class Counted(Greet):
            def connection_lost(self, exc: object) -> None:
                lost.append(exc)

        server, address = self.serve(Counted, backlog=1000)

        async def main() -> list[bytes]:
            async def one() -> bytes:
                reader, writer = await asyncio.open_connection(*address)
                answer = await reader.read()
                writer.close()
                await writer.wait_closed()
                return answer

            return await asyncio.gather(*(one() for _ in range(500)))

        self.run_for(main())
        # Its own ends close by themselves.
        self.run_for(until(lambda: len(lost) == 500))
        before = descriptors()
        self.assertEqual(self.run_for(main()), [b"hello"] * 500)
        self.run_for(until(lambda: len(lost) == 1000))
        self.assertEqual(descriptors(), before)
        server.close()
        self.assertEqual(self.errors, [])

    def test_closed_it_refuses_at_once_and_its_port_is_free(self) -> None:
        for _ in range(20):
            server, address = self.serve()
            self.assertEqual(self.run_for(self.in_thread(address)), b"hello")
            server.close()
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(address)
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(address)
                other.listen()

    def test_closed_in_the_turn_in_which_somebody_connects(self) -> None:
        before = None
        for _ in range(50):
            server, address = self.serve()
            with socket.create_connection(address):
                self.loop.call_soon(server.close)
                self.run_for(asyncio.sleep(0))
                self.run_for(asyncio.sleep(0))
            before = before or descriptors()
        self.run_for(until(lambda: descriptors() <= before))
        self.assertEqual(self.errors, [])

    def test_it_goes_along_to_another_thread(self) -> None:
        server, address = self.serve()
        self.assertEqual(self.run_for(self.in_thread(address)), b"hello")
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.run_for(self.in_thread(address))))
        thread.start()
        thread.join()
        self.assertEqual(answers, [b"hello"])
        # Its ring is another thread's: the kernel lets go of the socket a moment after that is closed.
        server.close()
        deadline = time.monotonic() + 20
        with self.assertRaises(ConnectionRefusedError):
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionResetError):
                    socket.create_connection(address).close()

    def test_a_factory_that_raises_costs_its_connection(self) -> None:
        fails = [True, False]

        def factory() -> Greet:
            if fails.pop(0):
                raise LookupError("no protocol")
            return Greet()

        server, address = self.serve(factory)
        self.assertEqual(self.run_for(self.in_thread(address)), b"")
        self.assertEqual(self.run_for(self.in_thread(address)), b"hello")
        self.assertEqual([type(error["exception"]) for error in self.errors], [LookupError])
        server.close()

    def test_a_factory_that_exits_ends_the_run(self) -> None:
        def factory() -> Greet:
            raise SystemExit(3)

        server, address = self.serve(factory)
        with socket.create_connection(address), self.assertRaises(SystemExit):
            self.loop.run_forever()
        server.close()

    def test_each_connection_has_a_copy_of_the_servers_context(self) -> None:
        var = contextvars.ContextVar("var", default=0)
        seen = []

        class Counts(Greet):
            def connection_made(self, transport: Any) -> None:
                seen.append(var.get())
                var.set(var.get() + 1)
                super().connection_made(transport)

        async def main() -> None:
            var.set(7)
            server = await self.loop.create_server(Counts, "127.0.0.1", 0)
            for _ in range(3):
                await self.in_thread(server.sockets[0].getsockname())
            server.close()

        self.run_for(main())
        self.assertEqual(seen, [7, 7, 7])

    def test_out_of_descriptors_it_says_so_and_tries_again(self) -> None:
        server, address = self.serve()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.socket()
        self.run_for(asyncio.sleep(0.01))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, limits[1]))
            # Lower numbers that are free.
            filled = []
            while True:
                try:
                    filled.append(os.dup(0))
                except OSError:
                    break
            client.connect(address)
            began = time.monotonic()
            self.run_for(until(lambda: self.errors))
            self.run_for(asyncio.sleep(0.3))
            # Once a second.
            self.assertLessEqual(len(self.errors), 1 + time.monotonic() - began)
            self.assertEqual({error["exception"].errno for error in self.errors}, {errno.EMFILE})
            self.assertIn("out of system resource", self.errors[0]["message"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in filled:
                os.close(fd)
        client.settimeout(20)
        self.assertEqual(self.run_for(self.loop.run_in_executor(None, client.recv, 100)), b"hello")
        client.close()
        server.close()

    def share(self, at_once: int) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=100) as sock:
            served: list[asyncio.AbstractEventLoop] = []

            async def serve() -> None:
                loop, stop = asyncio.get_running_loop(), asyncio.Event()

                def greet() -> Greet:
                    served.append(loop)
                    return Greet()

                server = await loop.create_server(greet, sock=sock.dup())
                stops[loop] = stop
                numbers.append(threading.get_native_id())
                await stop.wait()
                server.close()

            def run() -> None:
                with asyncio.Runner(loop_factory=lambda: erlang.new_event_loop(backend=self.backend)) as runner:
                    runner.run(serve())

            stops: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}
            numbers: list[int] = []
            threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
            for thread in threads:
                thread.start()
            self.run_for(until(lambda: len(numbers) == 2))
            address = sock.getsockname()

            async def clients() -> None:
                while len({*served}) < 2:
                    # Who is busy would leave them to the other one.
                    await until(lambda: all(map(waits, numbers)))
                    answers = await asyncio.gather(*(self.in_thread(address) for _ in range(at_once)))
                    self.assertEqual({*answers}, {b"hello"})

            self.run_for(clients())
            for loop, stop in stops.items():
                loop.call_soon_threadsafe(stop.set)
            for thread in threads:
                thread.join()

    def test_loops_that_share_a_socket_have_their_share_of_clients(self) -> None:
        """Whoever comes first would keep all where clients come one after the other."""
        self.share(at_once=1)
        self.share(at_once=20)

    def test_backlogs_and_serving_later(self) -> None:
        server, address = self.serve(start_serving=False, backlog=1)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(address)
        self.run_for(server.start_serving())

        async def main() -> list[bytes]:
            return [await self.in_thread(address) for _ in range(20)]

        self.assertEqual(self.run_for(main()), [b"hello"] * 20)
        server.close()

    def test_sock_accept(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock, tempfile.TemporaryDirectory() as folder:
            sock.setblocking(False)
            tcp = sock.getsockname()
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(f"{folder}/socket")
            unix.listen()
            unix.setblocking(False)

            async def main() -> None:
                for listening, address in ((sock, tcp), (unix, f"{folder}/socket")):
                    for _ in range(3):
                        accept = asyncio.ensure_future(self.loop.sock_accept(listening))
                        await asyncio.sleep(0.005)
                        with socket.socket(listening.family) as client:
                            client.connect(address)
                            conn, peer = await accept
                            self.assertEqual((conn.gettimeout(), conn.family), (0, client.family))
                            self.assertEqual(peer, client.getsockname())
                            conn.close()
                    # Given up, it takes nobody.
                    accept = asyncio.ensure_future(self.loop.sock_accept(listening))
                    await asyncio.sleep(0.005)
                    accept.cancel()
                    with self.assertRaises(asyncio.CancelledError):
                        await accept
                    with socket.socket(listening.family) as client:
                        client.connect(address)
                        await asyncio.sleep(0.005)
                        conn, _ = await self.loop.sock_accept(listening)
                        conn.close()

            self.run_for(main())
            unix.close()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(tcp)

    def test_who_connects_while_an_accept_is_cancelled_is_accepted_next(self) -> None:
        async def main(others: int) -> None:
            with socket.create_server(("127.0.0.1", 0)) as sock, socket.socket() as client:
                sock.setblocking(False)
                first, *waiting = [asyncio.ensure_future(self.loop.sock_accept(sock)) for _ in range(1 + others)]
                await asyncio.sleep(0)
                client.connect(sock.getsockname())
                select.select([sock], [], [])
                self.loop.call_soon(first.cancel)
                await asyncio.sleep(0)
                with self.assertRaises(asyncio.CancelledError):
                    await first
                conn, peer = await (waiting[0] if others else self.loop.sock_accept(sock))
                conn.close()
                self.assertEqual(peer, client.getsockname())
                for accept in waiting[1:]:
                    with socket.create_connection(sock.getsockname()) as another:
                        conn, peer = await accept
                        conn.close()
                        self.assertEqual(peer, another.getsockname())

        for others in (0, 1, 3):
            self.run_for(main(others))
        self.assertEqual(self.errors, [])

    def test_a_cancelled_connect_lets_go_of_its_socket(self) -> None:
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        queued = [socket.socket() for _ in range(4)]
        for client in queued:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        self.run_for(self.loop.getaddrinfo("127.0.0.1", 1))
        before = descriptors()

        async def main() -> None:
            for nth in range(20):
                sock = socket.socket()
                sock.setblocking(False)
                connect = asyncio.ensure_future(self.loop.sock_connect(sock, full.getsockname()))
                for _ in range(nth % 3):
                    await asyncio.sleep(0)
                connect.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await connect
                sock.close()
                with self.assertRaises(TimeoutError):
                    await asyncio.wait_for(asyncio.open_connection(*full.getsockname()), 0.002)

        self.run_for(main())
        self.run_for(until(lambda: descriptors() == before))
        for client in [full, *queued]:
            client.close()
        self.run_for(asyncio.sleep(0.01))
        self.assertEqual(self.errors, [])

    def test_a_refused_connect_names_the_address(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            address = sock.getsockname()
        with self.assertRaisesRegex(ConnectionRefusedError, f"Connect call failed.*{address[1]}"):
            self.run_for(asyncio.open_connection(*address))

    def test_a_unix_socket_whose_backlog_is_full_is_waited_for(self) -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as full:
            full.bind(f"{folder}/socket")
            full.listen(0)

            async def main() -> None:
                async def one() -> Any:
                    return await asyncio.open_unix_connection(f"{folder}/socket")

                tasks = [asyncio.create_task(one()) for _ in range(4)]
                await asyncio.sleep(0.05)
                self.assertLess(sum(task.done() for task in tasks), 4)
                accepted = []
                full.setblocking(False)
                while len(accepted) < 4:
                    try:
                        accepted.append(full.accept()[0])
                    except BlockingIOError:
                        await asyncio.sleep(0.005)
                for task in tasks:
                    writer = (await task)[1]
                    writer.close()
                    await writer.wait_closed()
                for sock in accepted:
                    sock.close()

            self.run_for(main())

    def test_the_path_of_a_unix_server_goes_with_it(self) -> None:
        """If that is asked for: as asyncio's is by itself since 3.13."""
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/socket"

            async def serve(path: str, **options: Any) -> asyncio.AbstractServer:
                return await self.loop.create_unix_server(Greet, path, **options)

            self.run_for(serve(path, cleanup_socket=False)).close()
            self.assertTrue(os.path.exists(path))
            self.run_for(serve(path, cleanup_socket=True)).close()
            self.assertFalse(os.path.exists(path))
            self.run_for(asyncio.start_unix_server(lambda *ends: None, path, cleanup_socket=True)).close()
            self.assertFalse(os.path.exists(path))
            self.run_for(serve(f"\0{path}", cleanup_socket=True)).close()
            # What is another's by then is left alone, and what is gone is gone.
            server = self.run_for(serve(path, cleanup_socket=True))
            os.rename(path, f"{path}.old")
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(path)
                server.close()
            self.assertTrue(os.path.exists(path))
            server = self.run_for(serve(path, cleanup_socket=True))
            os.unlink(path)
            server.close()
            self.assertEqual(self.errors, [])


for _backend in filter(works, ("epoll", "uring")):
    _name = f"Servers_{_backend}"
    globals()[_name] = type(_name, (Servers, unittest.TestCase), {"backend": _backend})


if __name__ == "__main__":
    unittest.main()
