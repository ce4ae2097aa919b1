#!/usr/bin/env python3
"""Runs apps_SUITE with what it needs: packages of PyPI in _build/apps, a PostgreSQL and a Redis for as long as it takes.

Arguments go to Common Test: ``run.py --group epoll --case uvicorn_fastapi``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = ROOT / "_build" / "apps" / f"venv-{sys.version.split()[0]}"
PACKAGES = {"redis-server": "redis-server", "psql": "postgresql"}

PATIENCE_SECONDS = 30


def main() -> int:
    install_services()
    make_venv()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as services:
        # Whoever runs PostgreSQL must get there.
        os.chmod(directory, 0o755)
        ports = {
            "APPS_POSTGRES": services.enter_context(postgres(Path(directory) / "postgres")),
            "APPS_REDIS": services.enter_context(redis(Path(directory) / "redis")),
        }
        environment = os.environ | {name: str(port) for name, port in ports.items()} | {"APPS_VENV": str(VENV), "APPS_DOCS": str(ROOT / "docs")}
        command = ["rebar3", "ct", "--suite", "test/apps_SUITE", *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


def install_services() -> None:
    missing = [package for command, package in PACKAGES.items() if shutil.which(command) is None]
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        sys.exit(f"test-apps needs {' and '.join(missing)}: sudo {' '.join(install)}")
    subprocess.run(["apt-get", "update"], check=True)
    subprocess.run(install, check=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})


def make_venv() -> None:
    requirements = HERE / "requirements.txt"
    made = VENV / "made-from"
    if made.exists() and made.read_text() == requirements.read_text():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    pip = [VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "-r", requirements], check=True)
    made.write_text(requirements.read_text())


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[int]:
    # The newest that is installed.
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    directory.mkdir(mode=0o700)
    if user:
        os.chown(directory, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    port = free_port()
    initdb = [binaries / "initdb", "-D", directory, "-U", "postgres", "-A", "trust", "--no-sync"]
    subprocess.run(initdb, check=True, user=user, cwd="/", stdout=subprocess.DEVNULL)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    command = [binaries / "postgres", "-D", directory, *(f"--{name}={value}" for name, value in settings.items())]
    with running(command, port, user=user):
        yield port


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[int]:
    directory.mkdir()
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
    with running(command, port):
        yield port


@contextlib.contextmanager
def running(command: list[str | Path], port: int, user: str | None = None) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, user=user, cwd="/", stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(port, process)
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)
            log.seek(0)
            told = log.read().decode(errors="replace")
            # What a client leaves without a farewell.
            wrong = [line for line in told.splitlines() if "unexpected EOF" in line or "FATAL" in line]
            if wrong:
                print(*wrong, sep="\n")


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{process.args!r} does not serve")
            time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
