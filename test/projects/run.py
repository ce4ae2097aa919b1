#!/usr/bin/env python3
"""Follows docs/getting-started.md as a new user would, in projects of their own: pytest, rebar3 with a release, Mix with a release.

Its blocks are taken as they stand, but for the address of the repository, which is this checkout, so that nothing is built twice,
and port 4000. Names of sections may be given: ``run.py mix``.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_SECONDS = 60.0

Blocks = dict[str, list[str]]


class User:
    """Whoever reads the page: a home of their own, and nothing in the environment but what the build needs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        there = Path.home()
        python = subprocess.run(["bash", "scripts/find_python.sh"], cwd=ROOT, check=True, capture_output=True, text=True)
        self.environment = {name: value for name, value in os.environ.items() if name.startswith(("CARGO_", "RUSTUP_", "SSL_", "PIP_"))}
        self.environment |= {"HOME": str(home), "LANG": "C.UTF-8", "PATH": os.environ["PATH"], "PYTHON": python.stdout.strip()}
        self.environment |= {"CARGO_HOME": str(there / ".cargo"), "RUSTUP_HOME": str(there / ".rustup")} | self.environment

    def types(self, text: str, directory: Path, **more: str) -> str:
        """What the shell says to that."""
        done = subprocess.run(
            ["bash", "-ec", text],
            cwd=directory,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(f"{text}\n{done.stdout}\nprojects: this ended with {done.returncode}")
        return done.stdout


def main() -> int:
    blocks = read((ROOT / "docs" / "getting-started.md").read_text())
    wanted = sys.argv[1:] or ["pytest", "rebar3", "mix"]
    sections: dict[str, Callable[[User, Blocks, Path], None]] = {"pytest": by_pytest, "rebar3": by_rebar3, "mix": by_mix}
    for name in wanted:
        if name == "mix" and not has_elixir():
            print("projects: mix skipped: there is no Elixir here (apt-get install elixir)")
            continue
        with tempfile.TemporaryDirectory(prefix="py_reactor-") as directory:
            home = Path(directory) / "home"
            home.mkdir()
            sections[name](User(home), blocks, Path(directory))
        print(f"projects: {name} does as the page says")
    return 0


def read(page: str) -> Blocks:
    """The blocks of each kind, in order."""
    blocks: Blocks = {}
    for kind, text in re.findall(r"^```(\S.*?)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        blocks.setdefault(kind, []).append(text)
    return blocks


def the_one(blocks: Blocks, kind: str, mark: str) -> str:
    found = [text for text in blocks[kind] if mark in text]
    assert len(found) == 1, (kind, mark, len(found))
    return found[0]


def has_elixir() -> bool:
    if shutil.which("mix") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "elixir"], env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    return shutil.which("mix") is not None


# ---- section 3 ----


def by_pytest(user: User, blocks: Blocks, directory: Path) -> None:
    clone = user.home / "src" / "py_reactor"
    subprocess.run(["bash", "scripts/copy_checkout.sh", clone], cwd=ROOT, check=True)
    with_peer, by_hand = blocks["python plain"]
    project = directory / "project"
    project.mkdir()
    write(project / "shout.py", blocks["python module=shout"][0])
    write(project / "test_shout.py", with_peer)
    write(project / "test_by_hand.py", by_hand)
    said = user.types(the_one(blocks, "sh not-run", "pytest"), project)
    assert re.search(r"^=+ 1 passed", said, re.MULTILINE), said


# ---- sections 4 and 6 ----


def by_rebar3(user: User, blocks: Blocks, directory: Path) -> None:
    user.types("rebar3 new release my_app", directory)
    project = directory / "my_app"
    (project / "_checkouts").mkdir()
    (project / "_checkouts" / "py_reactor").symlink_to(ROOT)
    application = project / "apps" / "my_app"
    port = free_port()
    write(application / "priv" / "python" / "shout.py", blocks["python module=shout"][0])
    write(application / "src" / "shout_server.erl", the_one(blocks, "erlang", "-module(shout_server)"))
    replace(project / "rebar.config", "{deps, []}.", blocks["erlang terms"][0])
    replace(project / "config" / "vm.args", "-sname my_app", f"-sname my_app_{os.getpid()}")
    replace(application / "src" / "my_app.app.src", "stdlib", "stdlib, py_reactor")
    start = f'{{ok, _}} = shout_server:start({port}, filename:join(code:priv_dir(my_app), "python")),\n    my_app_sup:start_link().'
    replace(application / "src" / "my_app_app.erl", "my_app_sup:start_link().", start)
    stop = "py_reactor:stop_listener(shout), py_reactor_context:stop(2)."
    replace(application / "src" / "my_app_app.erl", "    ok.", f"    {stop}")
    user.types("rebar3 as prod tar", project)
    [archive] = (project / "_build" / "prod" / "rel" / "my_app").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(directory / "installed")
    release = Release(user, directory / "installed" / "bin" / "my_app", port)
    release.serves_restarts_and_stops("eval 'py_reactor:listeners().'", f"port => {port}")


# ---- section 7 ----


def by_mix(user: User, blocks: Blocks, directory: Path) -> None:
    user.types("mix new shop --sup", directory)
    project = directory / "shop"
    port = free_port()
    dependencies, application = the_one(blocks, "elixir not-run", "# lib/shop/application.ex").split("# lib/shop/application.ex\n")
    here = re.sub(r'git: "[^"]*", branch: "main"', f'path: "{ROOT}"', dependencies.removeprefix("# mix.exs\n").strip())
    mix = project / "mix.exs"
    write(mix, re.sub(r"defp deps do\n.*?\n  end\n", lambda _: here + "\n", mix.read_text(), flags=re.DOTALL))
    write(project / "lib" / "shop" / "application.ex", application.replace("4000", str(port)))
    write(project / "priv" / "python" / "shout.py", blocks["python module=shout"][0])
    typed = the_one(blocks, "sh not-run", "MIX_REBAR3")
    # What it runs until it is ended, and a release that is to be started by a name of its own.
    until_ended, release_start = "mix run --no-halt", "&& _build/prod/rel/shop/bin/shop daemon"
    assert until_ended in typed and release_start in typed, typed
    user.types(typed.replace(until_ended, "mix run -e ':ok'").replace(release_start, ""), project)
    built = project / "_build" / "prod" / "rel" / "shop"
    shutil.copytree(built, directory / "installed")
    release = Release(user, directory / "installed" / "bin" / "shop", port, RELEASE_NODE=f"shop_{os.getpid()}")
    release.serves_restarts_and_stops("""rpc 'IO.inspect(:py.eval("6 * 7"))'""", "{:ok, 42}")


# ---- what is installed ----


class Release:
    """A release that was unpacked, started by its own script."""

    def __init__(self, user: User, script: Path, port: int, **environment: str) -> None:
        self.user, self.script, self.port, self.environment = user, script, port, environment

    def command(self, command: str) -> str:
        return self.user.types(f"{self.script} {command}", self.user.home, **self.environment)

    def serves_restarts_and_stops(self, question: str, answer: str) -> None:
        self.command("daemon")
        try:
            within_patience(lambda: self.shouts(), f"{self.script} does not serve")
            assert answer in (said := self.command(question)), said
            with self.connected() as client:
                self.command("restart")
                # It has heard of the restart when it is told, and serves again later.
                assert client.recv(1) == b""
            within_patience(lambda: self.shouts(), f"{self.script} does not serve after its restart")
        finally:
            self.command("stop")
        within_patience(lambda: not self.shouts(), f"{self.script} does not stop")

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)

    def shouts(self) -> bool:
        try:
            with self.connected() as client:
                client.sendall(b"hello\n")
                return client.recv(6) == b"HELLO\n"
        except ConnectionError:
            return False


def within_patience(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"projects: {otherwise}")
        time.sleep(0.1)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
