"""What is printed, where destructors print too, at any step of it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "python"


def run(code: str) -> list[str]:
    """The lines that ``code`` writes to ``out``, in a process of its own."""
    begin = """
        import gc, os
        from erlang import _console
        out = _console._Lines(_console._Whole(1, lambda fd, data, ms: os.write(fd, data)), "utf-8", "strict")
    """
    program = textwrap.dedent(begin) + textwrap.dedent(code) + "\nout.flush()\nos._exit(0)\n"
    ran = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(PACKAGE)}, capture_output=True, timeout=120, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    return ran.stdout.decode().split("\n")


def test_destructors_print_between_the_pieces_of_a_line() -> None:
    lines = run("""
        class Garbage:
            def __init__(self):
                self.me = self

            def __del__(self):
                out.write("gone\\n")

        # No list is left that has been one, so that to make one may start the collector.
        lists = [[] for _ in range(300)]
        gc.disable()
        for threshold in list(range(1, 12)) * 20:
            lists += [[] for _ in range(4)]
            gc.collect()
            Garbage()
            gc.set_threshold(threshold)
            gc.enable()
            out.write("a")
            out.write("b")
            out.write("c\\n")
            gc.disable()
        gc.collect()
    """)
    assert sorted(lines) == [""] + ["abc"] * 220 + ["gone"] * 220


def test_lines_are_whole_and_what_is_begun_is_flushed() -> None:
    lines = run("""
        import threading
        out.write("begun")
        other = threading.Thread(target=print, args=("other", 1), kwargs={"file": out})
        other.start()
        other.join()
        out.write(" here\\n")
        out.write("not ended, ")
        out.flush()
        out.write("\\n")
        out.reconfigure(write_through=True)
        out.write("at once, ")
        os.write(1, b"then this\\n")
    """)
    assert lines == ["other 1", "begun here", "not ended, ", "at once, then this", ""]


def test_what_cannot_be_encoded_costs_no_other_piece() -> None:
    lines = run("""
        out.write("kept ")
        for wrong in ("\\udc80", "\\udc80\\n"):
            try:
                out.write(wrong)
            except UnicodeEncodeError:
                out.write("refused ")
        out.write("\\n")
    """)
    assert lines == ["kept refused refused ", ""]
