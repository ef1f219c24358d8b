"""One line per event in the log, whatever names and addresses strangers put into requests."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

MAX_LINE = 2000
"""Characters of a line."""

MAX_TRACEBACK = 20_000

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
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # One line for every image request would carry addresses; ours say what matters.
    for name in ("httpcore", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Each request that finds all threads busy would be a line.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
