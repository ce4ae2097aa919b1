"""The package ``erlang`` itself: what one import brings, and atoms."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import erlang
from erlang import reactor


def test_one_import_brings_the_reactor() -> None:
    assert erlang.reactor is reactor
    assert erlang.ReactorBuffer is reactor.ReactorBuffer


def test_atoms_compare_by_name() -> None:
    assert erlang.atom("ok") == erlang.atom("ok")
    assert erlang.atom("ok") != erlang.atom("error")
    assert len({erlang.atom("ok"), erlang.atom("ok")}) == 1
    assert isinstance(erlang.atom("ok"), erlang.Atom)


def test_an_atom_is_no_text_but_has_one() -> None:
    assert erlang.atom("ok") != "ok"
    assert str(erlang.atom("ok")) == "ok"
    assert repr(erlang.atom("ok")) == "<erlang.Atom ok>"


@pytest.mark.parametrize("name", [b"ok", 1, None, ["ok"]])
def test_only_text_names_an_atom(name: object) -> None:
    with pytest.raises(TypeError, match="the name of an atom is a str"):
        erlang.atom(name)  # type: ignore[arg-type]


def test_names_of_atoms_have_a_length() -> None:
    erlang.atom("x" * 255)
    with pytest.raises(ValueError, match="255"):
        erlang.atom("x" * 256)


def test_the_versions_are_one() -> None:
    root = Path(__file__).parents[2]
    with (root / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert f'{{vsn, "{version}"}}' in (root / "erlang" / "py_reactor.app.src").read_text()
