"""Python's ``logging`` on its way to Erlang's ``logger``; called by native code."""

from __future__ import annotations

import logging
import sys

from erlang import _runtime
from erlang._console import Log


class _NoLock:
    """A lock that everybody has."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        pass


class Handler(logging.Handler):
    """Hands records to the context on whose thread they are made.

    It needs no lock, and has none: an interrupt may come where `logging` has taken it and is not about to give it back yet (before
    3.13), and whoever logs in the interpreter after that would wait for ever.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def createLock(self) -> None:  # noqa: N802
        """Called when it is made."""
        self.lock = _NoLock()  # type: ignore[assignment]

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _runtime.shorten(self.format(record))
            if not self._log(record.levelno, text, record.name, record.pathname, record.lineno):
                print(text, file=sys.stderr)
        except Exception:
            self.handleError(record)


def prepare(log: Log) -> None:
    """Before ``setup_code``: what nobody handles goes to Erlang, but nothing is configured yet.

    So ``logging.basicConfig`` does there what it always does.
    """
    if not isinstance(logging.lastResort, Handler):
        # It may be anything with the methods of a handler; typeshed knows the original only.
        setattr(logging, "lastResort", Handler(log))


def install() -> None:
    """After ``setup_code``: unless that configured something else, all goes to Erlang."""
    if not logging.root.handlers and isinstance(logging.lastResort, Handler):
        logging.root.addHandler(logging.lastResort)
