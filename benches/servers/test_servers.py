"""Holds every server to the contract that the benchmark relies on, with real clients.

Run by ``python -m pytest benches/servers/test_servers.py``; setup.sh is called first.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from server_process import PATIENCE_SECONDS, SERVERS, Server, process_tree

sys.path.insert(0, str(SERVERS / "python"))

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nHello, world!"
JSON_RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 27\r\ncontent-type: application/json\r\n\r\n"
    b'{"message":"Hello, world!"}'
)
REQUEST = (
    b"GET /some/path?x=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n"
)


def listed(program: str = "run") -> list[str]:
    output = subprocess.run([SERVERS / program, "--list"], check=True, capture_output=True, text=True)
    return [line.split("\t")[0] for line in output.stdout.splitlines()]


NAMES = listed()
ASYNCIO_NAMES = [name for name in NAMES if name.endswith("-asyncio")]
ASYNCIO_NAMES += ["asyncio", "uvloop", "rloop", "loop-uring", "loop-epoll"]
PYTHON_NAMES = list(dict.fromkeys([name for name in NAMES if name.startswith("reactor-")] + ASYNCIO_NAMES))
# These have asyncio's programs for streams, and no other.
STREAMS_NAMES = [name for name in NAMES if name.endswith("-streams")]
DATAGRAM_NAMES = [name for name in NAMES if "zerocopy" not in name and name not in STREAMS_NAMES]


def echo(name: str) -> str:
    """The case in which a server sends every byte back."""
    return "streams" if name in STREAMS_NAMES else "echo"


@pytest.fixture(scope="session", autouse=True)
def set_up() -> None:
    subprocess.run([SERVERS / "setup.sh"], check=True)


Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    servers: list[Server] = []

    def start_one(name: str, case: str, program: str = "run", **environment: str) -> Server:
        if name in Server.unavailable:
            pytest.skip(Server.unavailable[name])
        servers.append(server := Server(name, case, program, **environment))
        server.wait_until_it_serves()
        return server

    yield start_one
    for server in servers:
        server.clean_up()


def receive(client: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        part = client.recv(count - len(received))
        assert part, f"the end after {len(received)} of {count} bytes"
        received += part
    return bytes(received)


def assert_silent(client: socket.socket, name: str) -> None:
    """Nothing more has come, nor does when the server is done with us."""
    # rloop tells nobody of a half close.
    if name == "rloop":
        return
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def exchange_in_odd_chunks(client: socket.socket, data: bytes, seed: int) -> None:
    """Sends in chunks of all sizes while what comes back is read."""
    chunks = random.Random(seed)

    def send() -> None:
        start = 0
        while start < len(data):
            size = chunks.choice([1, 7, 63, 64, 65, 1000, 16384, 16385, 99991, 300007])
            client.sendall(data[start : start + size])
            start += size

    sender = threading.Thread(target=send)
    sender.start()
    echoed = receive(client, len(data))
    sender.join()
    assert echoed == data


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("contexts", ["1", "2"])
def test_echo_of_every_byte(start: Start, name: str, contexts: str) -> None:
    server = start(name, echo(name), CONTEXTS=contexts)
    workers = []
    failures: list[BaseException] = []

    def exchange(client: socket.socket, seed: int) -> None:
        try:
            exchange_in_odd_chunks(client, random.Random(seed).randbytes(5_000_000), seed)
            assert_silent(client, name)
        except BaseException as failure:
            failures.append(failure)

    with ExitStack() as stack:
        for seed in range(4):
            client = stack.enter_context(server.connect())
            workers.append(threading.Thread(target=exchange, args=(client, seed)))
            workers[-1].start()
        for worker in workers:
            worker.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_that_reads_late_gets_everything_and_delays_nobody(start: Start, name: str) -> None:
    server = start(name, echo(name))
    data = random.Random(1).randbytes(20_000_000)
    with server.connect() as late, server.connect() as other:
        sender = threading.Thread(target=late.sendall, args=(data,))
        sender.start()
        # The server and the kernel cannot hold all of it, so the sender hangs until somebody reads.
        for _ in range(50):
            other.sendall(b"x" * 1000)
            assert receive(other, 1000) == b"x" * 1000
        assert receive(late, len(data)) == data
        sender.join()


@pytest.mark.parametrize("name", PYTHON_NAMES)
def test_http_pipelined_and_split_at_every_byte(start: Start, name: str) -> None:
    server = start(name, "http")
    with server.connect() as client:
        client.sendall(REQUEST)
        assert receive(client, len(RESPONSE)) == RESPONSE
        three = REQUEST * 3
        for split in range(len(three) + 1):
            client.sendall(three[:split])
            complete = split // len(REQUEST)
            assert receive(client, complete * len(RESPONSE)) == RESPONSE * complete
            client.sendall(three[split:])
            rest = 3 - complete
            assert receive(client, rest * len(RESPONSE)) == RESPONSE * rest
        for byte in three:
            client.sendall(bytes([byte]))
        assert receive(client, 3 * len(RESPONSE)) == RESPONSE * 3
        assert_silent(client, name)


@pytest.mark.parametrize("name", DATAGRAM_NAMES)
@pytest.mark.parametrize("contexts", ["1", "2"])
def test_datagrams_go_back_to_their_sender(start: Start, name: str, contexts: str) -> None:
    server = start(name, "udp", CONTEXTS=contexts)
    with ExitStack() as stack:
        clients = []
        for _ in range(8):
            client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.settimeout(PATIENCE_SECONDS)
            client.connect(("127.0.0.1", server.port))
            clients.append(client)
        for size in [1, 64, 1400, 9000]:
            # All at a time: so much fits a socket that has the usual size.
            for client in clients:
                client.send(random.Random(client.fileno()).randbytes(size))
            for client in clients:
                assert client.recv(65536) == random.Random(client.fileno()).randbytes(size)
        for size in [16384, 65507]:
            for client in clients:
                client.send(data := random.Random(client.fileno()).randbytes(size))
                assert client.recv(65536) == data


@pytest.mark.parametrize("name", PYTHON_NAMES)
def test_cpu_answers_complete_messages_only(start: Start, name: str) -> None:
    server = start(name, "cpu", CPU_ITERATIONS="10")
    with server.connect() as client:
        data = random.Random(2).randbytes(64 * 1000)
        exchange_in_odd_chunks(client, data, 3)
        client.sendall(data[:100])
        assert receive(client, 64) == data[:64]
        client.sendall(data[100:128])
        assert receive(client, 64) == data[64:128]
        client.sendall(data[:63])
        assert_silent(client, name)


@pytest.mark.parametrize("name", PYTHON_NAMES)
def test_cpu_takes_the_number_of_steps_from_outside(start: Start, name: str) -> None:
    def cost(iterations: str) -> int:
        server = start(name, "cpu", CPU_ITERATIONS=iterations)
        with server.connect() as client:
            for _ in range(20):
                client.sendall(b"x" * 64)
                receive(client, 64)
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    # 20 times 500 000 steps are a second or so, whatever else the server does.
    assert cost("500000") > cost("1") + 20


def test_the_work_is_done_once_for_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import work

    done: list[int] = []
    monkeypatch.setattr(work, "work", done.append)
    monkeypatch.setattr(work, "ITERATIONS", 7)
    worker = work.Worker()
    for size, messages in [(64, 1), (63, 0), (1, 1), (200, 3), (56, 1), (640, 10)]:
        done.clear()
        assert len(worker.answer(bytes(size))) == 64 * messages
        assert done == [7] * messages


@pytest.mark.parametrize("name", PYTHON_NAMES)
def test_a_sink_answers_those_that_begin_with_a_message(start: Start, name: str) -> None:
    server = start(name, "sink")
    with server.connect() as flood, server.connect() as client:
        flood.sendall(bytes(4_000_000))
        for seed in range(20):
            client.sendall(data := random.Random(seed).randbytes(64))
            assert receive(client, 64) == data
        flood.sendall(bytes(64))
        assert_silent(flood, name)


@pytest.mark.parametrize("name", PYTHON_NAMES)
def test_a_document_is_an_answer_to_what_is_no_message(start: Start, name: str) -> None:
    server = start(name, "document")
    with server.connect() as reader, server.connect() as client:
        for _ in range(2):
            reader.sendall(b"?" * 128)
            client.sendall(b"x" * 64)
            assert receive(client, 64) == b"x" * 64
            assert receive(reader, 50 * 1024 * 1024) == bytes(range(256)) * 204_800
        assert_silent(reader, name)


@pytest.mark.parametrize("name", ASYNCIO_NAMES)
def test_streams_echo_every_byte(start: Start, name: str) -> None:
    server = start(name, "streams")
    with server.connect() as client:
        exchange_in_odd_chunks(client, random.Random(4).randbytes(2_000_000), 4)
        assert_silent(client, name)


@pytest.mark.parametrize("name", ASYNCIO_NAMES)
@pytest.mark.parametrize(("case", "answer"), [("uvicorn", RESPONSE), ("fastapi", JSON_RESPONSE)])
def test_asgi_applications_answer_to_the_byte(start: Start, name: str, case: str, answer: bytes) -> None:
    server = start(name, case)
    with server.connect() as client:
        for _ in range(3):
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert receive(client, len(answer)) == answer
        assert_silent(client, name)


def cases_of(name: str) -> list[str]:
    python = ["http", "cpu", "sink", "document"] if name in PYTHON_NAMES else []
    asyncio = ["streams", "uvicorn", "fastapi"] if name in ASYNCIO_NAMES else []
    return [echo(name), *(["udp"] if name in DATAGRAM_NAMES else []), *python, *asyncio]


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in NAMES for case in cases_of(name)]
)
@pytest.mark.parametrize("contexts", ["1", "2"])
def test_ends_with_its_input_and_leaves_nothing(
    start: Start, name: str, case: str, contexts: str
) -> None:
    server = start(name, case, CONTEXTS=contexts)
    assert server.end(server.close_input) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("contexts", ["1", "2"])
def test_ends_by_sigterm_although_connections_are_open(
    start: Start, name: str, contexts: str
) -> None:
    server = start(name, echo(name), CONTEXTS=contexts)
    with server.connect() as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        server.end(server.terminate)
        assert client.recv(1) == b""


@pytest.mark.parametrize("name", NAMES)
def test_ends_with_its_input_although_connections_are_open(start: Start, name: str) -> None:
    server = start(name, echo(name))
    with server.connect() as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        assert server.end(server.close_input) == 0
        assert client.recv(1) == b""


@contextmanager
def socket_of(server: Server, wanted: Callable[[socket.socket], bool]) -> Iterator[socket.socket]:
    """A copy of a socket of the server's, to look at its options."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd_getfd = 438
    with ExitStack() as stack:
        for pid in process_tree(server.pid):
            pidfd = os.pidfd_open(pid)
            stack.callback(os.close, pidfd)
            for number in os.listdir(f"/proc/{pid}/fd"):
                copy = libc.syscall(pidfd_getfd, pidfd, int(number), 0)
                if copy < 0:
                    continue
                try:
                    one = stack.enter_context(socket.socket(fileno=copy))
                    found = wanted(one)
                except OSError:
                    continue
                if found:
                    yield one
                    return
    raise AssertionError("the server has no such socket")


@pytest.mark.parametrize("name", NAMES)
def test_connections_do_not_delay_small_writes(start: Start, name: str) -> None:
    server = start(name, echo(name))
    with server.connect() as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        ours = client.getsockname()
        with socket_of(server, lambda one: bool(one.getpeername() == ours)) as theirs:
            assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize("name", DATAGRAM_NAMES)
def test_datagram_sockets_have_the_usual_buffers(start: Start, name: str) -> None:
    server = start(name, "udp")

    def is_ours(one: socket.socket) -> bool:
        return one.type is socket.SOCK_DGRAM and one.getsockname() == ("127.0.0.1", server.port)

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as usual,
        socket_of(server, is_ours) as theirs,
    ):
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            expected = usual.getsockopt(socket.SOL_SOCKET, option)
            assert theirs.getsockopt(socket.SOL_SOCKET, option) == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_backlog_is_long(start: Start, name: str) -> None:
    connections = 3000
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) < 4096:
        pytest.skip("the kernel limits every backlog (net.core.somaxconn)")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = start(name, echo(name))
    processes = process_tree(server.pid)
    with ExitStack() as stack:
        clients = []
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(connections):
                clients.append(client := stack.enter_context(socket.socket()))
                # A client that finds the queue full tries again after a second, for ever.
                client.settimeout(0.9)
                client.connect(("127.0.0.1", server.port))
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
        for client in clients:
            client.settimeout(PATIENCE_SECONDS)
            client.sendall(b"x")
        for client in clients:
            assert receive(client, 1) == b"x"


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name in NAMES
        for case in ("http", "cpu", "sink", "document", "udp", "streams", "uvicorn", "fastapi")
        if case not in cases_of(name)
    ],
)
def test_what_makes_no_sense_is_unavailable(name: str, case: str) -> None:
    output = subprocess.run(
        [SERVERS / "run", name, case], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert output.returncode == 0
    assert list(json.loads(output.stdout)) == ["unavailable"]


@pytest.mark.parametrize("arguments", [["nobody", "echo"], ["floor-epoll", "ftp"], ["uvloop"], []])
def test_wrong_arguments_fail_and_say_so(arguments: list[str]) -> None:
    output = subprocess.run([SERVERS / "run", *arguments], capture_output=True, text=True)
    assert output.returncode != 0
    assert output.stdout == ""
    assert output.stderr.startswith("run: ")


def test_a_python_that_nothing_was_set_up_for_is_refused(tmp_path: Path) -> None:
    stranger = tmp_path / "python3"
    stranger.write_text("#!/bin/sh\necho /no/such/python\n")
    stranger.chmod(0o755)
    output = subprocess.run(
        [SERVERS / "run", "uvloop", "echo"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": str(stranger)},
    )
    assert output.returncode != 0
    assert "setup.sh" in output.stderr


def test_every_name_has_a_description() -> None:
    output = subprocess.run([SERVERS / "run", "--list"], check=True, capture_output=True, text=True)
    pairs = [line.split("\t") for line in output.stdout.splitlines()]
    assert all(len(pair) == 2 and all(pair) for pair in pairs)
    assert len({name for name, _ in pairs}) == len(pairs)


@pytest.mark.parametrize("name", listed("placement"))
def test_placement_is_what_its_name_says(start: Start, name: str) -> None:
    server = start(name, "echo", "placement", BACKEND="epoll")
    _, schedulers, spin, *cpu = name.split("-")
    arguments = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
    # `erl` passes +S on as -S. The last one counts.
    last = dict(zip(arguments, arguments[1:]))
    assert last["-S"] == f"{schedulers[1:]}:{schedulers[1:]}"
    assert {last[flag] for flag in ("-sbwt", "-sbwtdcpu", "-sbwtdio")} == {spin}
    threads = [int(task.name) for task in Path(f"/proc/{server.pid}/task").iterdir()]
    assert any(os.sched_getaffinity(thread) == {0} for thread in threads) == bool(cpu)
    with server.connect() as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        assert server.end(server.close_input) == 0
