#!/usr/bin/env python3
"""Keeps the house in order: who may import whom, and how long things may be.

    check_structure.py            checks; says each breach with its file and what to do; exits with 1 if there is any
    check_structure.py --write    writes the picture of the floors into docs/architecture.md, and checks

What is read is text: `crate::...' and `super::...' of Rust, `module:function(...)' of Erlang, and `import' in Python, also
within functions and for types only. Tests are left out.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- floors: written by scripts/check_structure.py --write -->", "<!-- end of floors -->"

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

# From the top down: each folder uses only those that stand in rows below its own, or itself.
RUST_FLOORS = (
    ("bench",),
    ("border",),
    ("reactor",),
    ("module",),
    ("connection",),
    ("python",),
    ("mail",),
    ("uring", "fallback"),
    ("driver",),
    ("buffer",),
    ("beam",),
    ("base",),
)

# The modules of the Erlang application, likewise.
ERLANG_FLOORS = (
    ("py_reactor_app",),
    ("py_reactor_sup", "py_service_sup"),
    ("py_reactor", "py"),
    ("py_listener_sup",),
    ("py_reactor_listener", "py_reactor_context", "py_dump"),
    ("py_context_sup",),
    ("py_context_keeper",),
    ("py_connection_monitor",),
    ("py_context_lookup", "py_relay", "py_functions"),
    ("py_context_server",),
    ("py_reactor_socket", "py_request", "py_options", "py_reactor_log"),
    ("py_info", "py_venv", "py_reactor_on_demand"),
    ("py_nif",),
    ("py_reactor_table",),
)

PYTHON_PACKAGE = "python/erlang"
# Files that import each other by their bare names.
PYTHON_FOLDERS = ("benches/servers/python", "benches/loops", "scripts")


@dataclass
class House:
    """Files, what they import, and what is wrong."""

    arrows: dict[str, set[str]] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)

    def add(self, room: str, imported: Iterable[str]) -> None:
        self.arrows.setdefault(room, set()).update(other for other in imported if other != room)

    def circles(self) -> Iterator[list[str]]:
        """Rooms that import each other in a loop: the strongly connected components of more than one (Tarjan)."""
        number: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []
        found: list[list[str]] = []

        def visit(room: str) -> None:
            number[room] = low[room] = len(number)
            stack.append(room)
            for other in sorted(self.arrows.get(room, ())):
                if other not in number:
                    visit(other)
                if other in stack:
                    low[room] = min(low[room], low[other])
            if low[room] == number[room]:
                circle = stack[stack.index(room) :]
                del stack[stack.index(room) :]
                if len(circle) > 1:
                    found.append(sorted(circle))

        for room in sorted(self.arrows):
            if room not in number:
                visit(room)
        yield from found

    def check_circles(self) -> None:
        for circle in self.circles():
            ties = [f"{a} -> {b}" for a in circle for b in sorted(self.arrows[a] & set(circle))]
            self.breaches.append(
                f"these import each other in a circle, so that none can be read first: {', '.join(ties)}; move what "
                "two of them need into a file of its own below"
            )

    def check_floors(self, floors: tuple[tuple[str, ...], ...], floor_of: dict[str, str]) -> None:
        level = {name: row for row, names in enumerate(floors) for name in names}
        for room, others in sorted(self.arrows.items()):
            if floor_of[room] not in level:
                self.breaches.append(f"{room}: {floor_of[room]} stands on no floor; add it to the table in scripts/check_structure.py")
                continue
            for other in sorted(others):
                here, there = level[floor_of[room]], level.get(floor_of[other], -1)
                if there < here:
                    self.breaches.append(f"{room} imports {other}, which does not stand below it")


# Rust.


def without_tests(text: str) -> str:
    """The product's part of a Rust file: what is tagged as a test comes last, by custom."""
    return text.split("#[cfg(test)]\nmod tests {")[0]


def rust_files() -> dict[str, Path]:
    """Module path -> file."""
    files = {}
    for path in sorted((ROOT / "src").rglob("*.rs")):
        parts = list(path.relative_to(ROOT / "src").with_suffix("").parts)
        if parts[-1] == "mod":
            parts.pop()
        if parts != ["lib"] and parts[-1] not in ("tests", "world", "nif_stubs"):
            files["::".join(parts)] = path
    return files


def rust_paths(text: str) -> Iterator[str]:
    """The paths below `crate::' that a file names."""
    text = re.sub(r"//.*", "", text)
    for match in re.finditer(r"crate::([a-z_]\w*(?:::\w+)*)(::\{([^}]*)\})?", text):
        yield match[1]
        for item in (match[3] or "").split(","):
            yield f"{match[1]}::{item.strip().split('::')[0]}"


def rust_house(house: House) -> dict[str, str]:
    files = rust_files()
    texts = {module: without_tests(path.read_text()) for module, path in files.items()}
    # A file that works on what its parent defines is a part of that; one that names a sibling imports it.
    whole = {}
    for module, text in texts.items():
        parent = module.rpartition("::")[0]
        siblings = {other.rpartition("::")[2] for other in files if other.rpartition("::")[0] == parent}
        text = re.sub(r"\bsuper::(\w+)", lambda m: f"crate::{parent}::{m[1]}" if m[1] in siblings else m[0], text)
        texts[module] = text
        whole[module] = parent if re.search(r"\bsuper::[\w{]", text) and parent in files else module
    for module, text in texts.items():
        imported = set()
        for path in rust_paths(text):
            parts = path.split("::")
            known = ("::".join(parts[:n]) for n in range(len(parts), 0, -1))
            imported.update(whole[name] for name in [next((name for name in known if name in files), "")] if name)
        house.add(whole[module], imported)
    return {module: module.split("::")[0] for module in set(whole.values())}


def check_rust_file(house: House, path: Path) -> None:
    name, text = path.relative_to(ROOT), path.read_text()
    if not re.search(r"\bunsafe\b", re.sub(r"//.*|unsafe_code", "", text)) and not re.search(r"mod \w+;", text):
        if "forbid(unsafe_code)" not in text:
            house.breaches.append(f"{name} has no unsafe code: say so, with #![forbid(unsafe_code)]")
    for match in re.finditer(r"// SAFETY: (.*(?:\n *// .*)*)", without_tests(text)):
        if not re.search(r"\bI\d+\b|the caller's promise", match[1]):
            line = text.count("\n", 0, match.start()) + 1
            house.breaches.append(f"{name}:{line} cites no invariant: say which of docs/invariants.md, and who upholds it")
    start, indent, function = 0, "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"( *)(?:pub(?:\(\w+\))? )?(?:const |unsafe |extern \"C\" )*fn (\w+)", line):
            start, indent, function = number, match[1], match[2]
        elif function and line == indent + "}":
            too_long(house, f"{name}:{start} {function}", number - start + 1)
            function = ""


def too_long(house: House, function: str, lines: int) -> None:
    if lines > FUNCTION_LINES_MAX:
        house.breaches.append(f"{function} has {lines} lines, more than {FUNCTION_LINES_MAX}: give its parts names")


# Erlang and Python.


def erlang_house(house: House) -> dict[str, str]:
    files = {path.stem: path for path in sorted((ROOT / "erlang").glob("*.erl"))}
    for name, path in files.items():
        code = re.sub(r"%.*", "", path.read_text())
        # Types are no dependency: nothing is called.
        code = re.sub(r"^-(?:spec|type|opaque|callback|record)\b.*?\.$", "", code, flags=re.MULTILINE | re.DOTALL)
        called = set(re.findall(r"\b(py\w*):\w+[(/]", code)) | set(re.findall(r"[{(,] *(py\w*), *start_link\b", code))
        house.add(name, (other for other in called if other in files))
    return {name: name for name in files}


def python_house(house: House) -> None:
    package = ROOT / PYTHON_PACKAGE
    files = {path.stem: path for path in sorted(package.glob("*.py"))}
    for name, path in files.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "erlang":
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("erlang."):
                imported.add(str(node.module).split(".")[1])
            elif isinstance(node, ast.Import):
                imported.update(a.name.split(".")[1] for a in node.names if a.name.startswith("erlang."))
        house.add(f"{PYTHON_PACKAGE}/{name}", (f"{PYTHON_PACKAGE}/{other}" for other in imported if other in files))
    for folder in PYTHON_FOLDERS:
        files = {path.stem: path for path in sorted((ROOT / folder).glob("*.py"))}
        for name, path in files.items():
            nodes = list(ast.walk(ast.parse(path.read_text())))
            imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
            house.add(f"{folder}/{name}", (f"{folder}/{other}" for other in imported if other in files))


def check_python_file(house: House, path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            too_long(house, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines)


def check_erlang_file(house: House, path: Path) -> None:
    """A function begins in the first column, and ends with a line that ends with a full stop."""
    start, function = 0, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not function and (match := re.match(r"([a-z]\w*)\(", line)):
            start, function = number, match[1]
        if function and re.search(r"\.\s*(%.*)?$", line):
            too_long(house, f"{path.relative_to(ROOT)}:{start} {function}", number - start + 1)
            function = ""


# All of it.


def sources() -> Iterator[Path]:
    for folder, pattern in (
        *((folder, "*.rs") for folder in ("src", "models", "fuzz", "benches")),
        *((folder, "*.py") for folder in ("python", "scripts", "test", "benches", "examples")),
        *((folder, "*.erl") for folder in ("erlang", "test", "examples")),
    ):
        for path in sorted((ROOT / folder).rglob(pattern)):
            if not {"target", "_build", ".venv"} & set(path.relative_to(ROOT).parts):
                yield path


def picture(house: House, floor_of: dict[str, str]) -> str:
    """The floors and what each uses directly, as a table."""
    rows = ["| floor | rooms | uses |", "|---|---|---|"]
    for names in RUST_FLOORS[1:]:
        for name in names:
            rooms = sorted(room for room, floor in floor_of.items() if floor == name)
            uses = {floor_of[other] for room in rooms for other in house.arrows.get(room, ())} - {name}
            shown = ", ".join(f"`{room.partition('::')[2] or room}`" for room in rooms)
            order = [other for row in RUST_FLOORS for other in row if other in uses]
            rows.append(f"| `{name}/` | {shown} | {', '.join(order) or 'nothing'} |")
    return "\n".join([BEGIN, *rows, END])


def main() -> int:
    house = House()
    floor_of = rust_house(house)
    drawn = picture(house, floor_of)
    erlang = House()
    erlang_floors = erlang_house(erlang)
    python = House()
    python_house(python)
    house.check_floors(RUST_FLOORS, floor_of)
    erlang.check_floors(ERLANG_FLOORS, erlang_floors)
    for part in (house, erlang, python):
        part.check_circles()
    for path in sources():
        lines = len(path.read_text().splitlines())
        if lines > FILE_LINES_MAX:
            house.breaches.append(f"{path.relative_to(ROOT)} has {lines} lines, more than {FILE_LINES_MAX}: split it by jobs")
        if path.suffix == ".rs" and path.is_relative_to(ROOT / "src"):
            check_rust_file(house, path)
        elif path.suffix == ".py":
            check_python_file(house, path)
        elif path.suffix == ".erl" and path.is_relative_to(ROOT / "erlang"):
            check_erlang_file(house, path)
    text = ARCHITECTURE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    if "--write" in sys.argv[1:] and rest:
        ARCHITECTURE.write_text(before + drawn + after)
    elif before + drawn + after != text:
        house.breaches.append("docs/architecture.md shows other floors than there are: run scripts/check_structure.py --write")
    breaches = house.breaches + erlang.breaches + python.breaches
    for breach in breaches:
        print(f"structure: {breach}", file=sys.stderr)
    arrows = sum(map(len, house.arrows.values()))
    print(f"structure: {len(house.arrows)} rooms of Rust, {arrows} arrows, {len(breaches)} breaches")
    return bool(breaches)


if __name__ == "__main__":
    sys.exit(main())
