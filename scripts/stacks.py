"""Says where the threads of processes, and of those that they have started, stand: for what has hung, before it is ended.

    stacks.py PID...

One line for each thread, its innermost call first: by gdb where there is one, or else what the kernel knows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

FRAMES = 14
GDB_SECONDS = 60
THREAD = re.compile(r'^Thread \d+ \(.*?(?:LWP (\d+)|$)')
FRAME = re.compile(r"^#\d+\s+(?:0x[0-9a-f]+ in )?(\S+)")


def named(pid: int) -> dict[int, str]:
    """The threads of a process and their names."""
    tasks: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            tasks[int(task.name)] = (task / "comm").read_text().strip()
        except OSError:
            # It has ended in the meantime.
            continue
    return tasks


def by_kernel(pid: int) -> list[str]:
    lines = []
    for task, name in named(pid).items():
        said = []
        for what in ("wchan", "syscall"):
            try:
                said.append(Path(f"/proc/{pid}/task/{task}/{what}").read_text().strip())
            except OSError as error:
                said.append(error.strerror)
        lines.append(f"{name}: {'; '.join(said)}")
    return lines


def by_gdb(gdb: str, pid: int) -> list[str]:
    command = [gdb, "-p", str(pid), "-batch", "-ex", f"thread apply all bt {FRAMES}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=GDB_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return []
    names = named(pid)
    lines: list[str] = []
    for line in done.stdout.splitlines():
        if thread := THREAD.match(line):
            lines.append(f"{names.get(int(thread[1] or 0), '?')}:")
        elif lines and (frame := FRAME.match(line)):
            lines[-1] += f" {frame[1]}"
    return lines


def stacks(pid: int) -> list[str]:
    """What each thread of a process does; threads that do the same at the same place are counted."""
    gdb = shutil.which("gdb")
    lines = (by_gdb(gdb, pid) if gdb else []) or by_kernel(pid)
    return [f"{lines.count(line)} x {line}" for line in dict.fromkeys(lines)]


def with_descendants(pids: list[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name of the program, in brackets, may contain anything.
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, None] = {}
    todo = pids[::-1]
    while todo:
        pid = todo.pop()
        if pid not in found and pid != os.getpid():
            found[pid] = None
            todo += children.get(pid, [])
    return list(found)


def main() -> None:
    for pid in with_descendants([int(pid) for pid in sys.argv[1:]]):
        print(f"process {pid}:")
        print("\n".join(f"    {line}" for line in stacks(pid)), flush=True)


if __name__ == "__main__":
    main()
