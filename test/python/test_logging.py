"""What `logging` hands to Erlang, and who waits for whom meanwhile."""

import logging
import sys
import threading

from erlang import _logging


def _interrupted(function, nth):
    """Calls a function that is interrupted before the nth line of `logging` that it runs. Answers whether it was."""
    left = nth

    def begin(frame, event, arg):
        return step if frame.f_code.co_filename == logging.__file__ else None

    def step(frame, event, arg):
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return step

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_who_is_interrupted_while_it_logs_keeps_nobody_from_it():
    logged = []
    handler = _logging.Handler(lambda *record: logged.append(record) or True)
    record = logging.LogRecord("name", logging.WARNING, __file__, 1, "text", None, None)
    nth = 1
    while _interrupted(lambda: handler.handle(record), nth):
        before = len(logged)
        other = threading.Thread(target=handler.handle, args=(record,), daemon=True)
        other.start()
        other.join(30)
        assert not other.is_alive(), f"interrupted before line {nth}"
        assert len(logged) == before + 1
        nth += 1
    assert nth > 3
