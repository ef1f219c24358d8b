"""One line per event in the log, whatever names and addresses strangers put into requests."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

MAX_LINE = 2000
"""Characters of a line."""

MAX_TRACEBACK = 20_000

MAX_LINES = 60
"""Warnings and errors of one kind in a minute: a stranger who sends faulty requests must not fill the disk."""

_WINDOW_SECONDS = 60.0

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class PlainFormatter(logging.Formatter):
    """Escapes what is not printable (line ends, escape codes, direction marks) and cuts what is too long."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line of a record."""
        return printable(super().formatMessage(record), MAX_LINE)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802
        """A traceback, each line indented so that none can be taken for a record."""
        text = super().formatException(ei)
        cut = text if len(text) <= MAX_TRACEBACK else f"...{text[-MAX_TRACEBACK:]}"
        return "\n".join(f"  {printable(line, MAX_LINE)}" for line in cut.splitlines())


class Sparse(logging.Filter):
    """Lets ``MAX_LINES`` warnings or errors of one kind pass in a minute; the next one tells how many were left out.

    Of one kind is what the same line of code logs, and of answers what has the same HTTP status (``kind`` among the
    record's extra attributes).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}  # by kind: since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by logging for each record."""
        if record.levelno < logging.WARNING:
            return True
        kind = (record.pathname, record.lineno, getattr(record, "kind", None))
        now = self._clock()
        with self._lock:
            since, count = self._seen.get(kind, (now, 0))
            if is_new := now - since >= _WINDOW_SECONDS:
                since, left_out, count = now, count - MAX_LINES, 0
            self._seen[kind] = since, count + 1
        if is_new and left_out > 0:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it were not logged)", ()
        return count < MAX_LINES


def printable(text: str, most: int) -> str:
    """The text without control characters, at most about ``most`` characters of it."""
    if len(text) > most:
        text = f"{text[:most]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def log_to_stderr(level: str) -> None:
    """Let all loggers of this process write such lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter(_FORMAT))
    handler.addFilter(Sparse())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # One line for every image request would carry addresses; ours say what matters.
    for name in ("httpcore", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Each request that finds all threads busy would be a line.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
