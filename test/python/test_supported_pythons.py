"""Which Pythons the build accepts, and which the matrix runs: with stubs that answer as other Pythons would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STUB = """#!{python}
import runpy
import sys
import sysconfig

sys.executable = __file__
sys.version_info = {version} + ("final", 0)
sysconfig.get_config_vars().update({config})
arguments = [argument for argument in sys.argv[1:] if argument != "-B"]
if arguments:
    sys.path[0] = arguments[0].rpartition("/")[0]
    runpy.run_path(arguments[0], run_name="__main__")
else:
    exec(sys.stdin.read())
"""

REBAR3 = """#!/bin/sh
echo "rebar3 $* with $(basename "$PYTHON") in ${PWD##*/}, built in $CARGO_TARGET_DIR"
exit "${REBAR3_STATUS:-0}"
"""

TOOLS = "awk basename bash cat cut dirname git grep mkdir mktemp readlink rm tar".split()

Result = tuple[int, str]


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(*command: str, cwd: Path = ROOT, **environment: str) -> Result:
    """The status of a command, and what it printed."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout


@pytest.fixture
def stub(tmp_path: Path) -> Callable[..., Path]:
    """stub(name, version, **config): an executable of that name; `config` is what its sysconfig says otherwise."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def make(name: str, version: tuple[int, int, int], **config: object) -> Path:
        write_program(programs / name, STUB.format(python=sys.executable, version=version, config=config))
        return programs / name

    return make


@pytest.fixture
def matrix(tmp_path: Path) -> Callable[..., Result]:
    """Runs the matrix in a checkout of nothing but the scripts, where there are no Pythons but the stubs and no rebar3
    but one that says how it was called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    write_program(tools / "rebar3", REBAR3)
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    shutil.copy(ROOT / ".gitignore", checkout)
    conformance = checkout / "test/asyncio/conformance.py"
    conformance.parent.mkdir(parents=True)
    conformance.write_text("print('asyncio')\n")

    def run_matrix(*extent: str, **environment: str) -> Result:
        environment = {"PYENV_ROOT": "/there/is/none"} | environment
        environment |= {"PATH": f"{tmp_path / 'bin'}:{tools}", "PYTHON": "python3"}
        return run("bash", "scripts/test_matrix.sh", *extent, cwd=checkout, **environment)

    return run_matrix


def test_the_build_refuses_a_free_threaded_python(stub: Callable[..., Path]) -> None:
    python = stub("python3", (3, 13, 0), Py_GIL_DISABLED=1)
    status, output = run("bash", "scripts/build_nif.sh", PYTHON=str(python))
    assert status != 0
    assert f"{python} cannot be used: it is a free-threaded build" in output


def test_cargo_alone_refuses_a_free_threaded_python(stub: Callable[..., Path]) -> None:
    # PyO3 itself refuses those before 3.14.
    python = stub("python3", (3, 14, 0), Py_GIL_DISABLED=1)
    target = {"PYO3_PYTHON": str(python), "CARGO_TARGET_DIR": str(ROOT / "target/refused")}
    status, output = run("cargo", "check", "--locked", "--lib", **target)
    assert status != 0
    assert f"{python} cannot be used: it is a free-threaded build" in output


def test_the_matrix_runs_every_other_python_that_is_supported(
    stub: Callable[..., Path], matrix: Callable[..., Result], tmp_path: Path
) -> None:
    stub("python3.11", (3, 11, 9)).with_name("python3").symlink_to("python3.11")
    stub("python3.10", (3, 10, 8))
    stub("python3.12", (3, 12, 7))
    stub("python3.13", (3, 13, 6), Py_ENABLE_SHARED=0)
    stub("python3.13t", (3, 13, 5), Py_GIL_DISABLED=1)
    stub("python3.14", (3, 14, 4)).with_name("python3.99").symlink_to("python3.14")
    elsewhere = tmp_path / "pyenv/versions/3.14.1/bin"
    elsewhere.mkdir(parents=True)
    stub("python3.14.1", (3, 14, 1)).rename(elsewhere / "python3")
    write_program(tmp_path / "bin" / "python3.15", "#!/bin/sh\nexit 1\n")
    stub("python3-config", (3, 12, 1))
    status, output = matrix(PYENV_ROOT=str(tmp_path / "pyenv"))
    programs, built = tmp_path / "bin", tmp_path / "checkout" / "target/matrix"
    for line in (
        f"3.11.9  {programs}/python3.11  is what `make test' uses\n",
        f"3.10.8  {programs}/python3.10  skipped: it is 3.10, and 3.11 is the oldest",
        f"3.13.6  {programs}/python3.13  skipped: it has no shared library",
        f"3.13.5  {programs}/python3.13t  skipped: it is a free-threaded build",
        f"3.14.1  {elsewhere}/python3  the conformance suites: 3.14.4 is of the same minor version\n",
        f"{programs}/python3.15 does not run\n",
    ):
        assert line in output
    *whole, conformance = [line for line in output.splitlines() if line.startswith("rebar3")]
    assert whole == [
        f"rebar3 ct with python3.12 in 3.12.7, built in {built}/3.12.7",
        f"rebar3 ct with python3.14 in 3.14.4, built in {built}/3.14.4",
    ]
    _, _, suites, rest = conformance.replace("rebar3 ct", "", 1).split(" ", 3)
    assert rest == f"with python3 in 3.14.1, built in {built}/3.14.1"
    assert all((ROOT / f"{suite}.erl").exists() for suite in suites.split(","))
    assert (tmp_path / "checkout/_build/matrix/3.12.7/scripts/test_matrix.sh").exists()
    assert status == 0


def test_the_core_of_the_matrix_runs_each_other_minor_version_once(
    stub: Callable[..., Path], matrix: Callable[..., Result]
) -> None:
    stub("python3", (3, 11, 9))
    stub("python3.11", (3, 11, 8))
    stub("python3.12", (3, 12, 7))
    status, output = matrix("core")
    assert status == 0
    [run] = [line for line in output.splitlines() if line.startswith("rebar3")]
    assert "python3.12" in run and "contexts_SUITE" in run
    assert "3.11.8" in output and "make test-full" in output
    assert matrix("other")[0] == 2


def test_the_matrix_fails_when_the_suites_do(stub: Callable[..., Path], matrix: Callable[..., Result]) -> None:
    stub("python3", (3, 11, 9))
    python = stub("python3.12", (3, 12, 7))
    status, output = matrix(REBAR3_STATUS="1")
    assert status != 0
    assert f"the suites fail with Python 3.12.7 ({python})" in output


def test_the_matrix_needs_a_python_with_a_gil_for_each_interpreter(
    stub: Callable[..., Path], matrix: Callable[..., Result]
) -> None:
    stub("python3", (3, 11, 9))
    stub("python3.11", (3, 11, 8))
    stub("python3.13", (3, 13, 6), Py_ENABLE_SHARED=0)
    status, output = matrix()
    assert status != 0
    assert "no Python of 3.12 or later" in output
    assert "--enable-shared" in output and "apt-get" in output
    assert "rebar3" not in output


def test_the_usual_python_may_be_the_one_that_the_matrix_needs(
    stub: Callable[..., Path], matrix: Callable[..., Result]
) -> None:
    stub("python3", (3, 12, 7))
    status, output = matrix()
    assert status == 0
    assert "rebar3" not in output
