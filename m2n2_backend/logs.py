"""One line per event in the log, whatever names strangers put into requests, and however many requests they send."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

logger = logging.getLogger(__name__)

MAX_LINE = 2000
"""Characters of a line."""

MAX_TRACEBACK = 20_000

MAX_A_MINUTE = 30
"""Lines of one kind."""

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


class FloodFilter(logging.Filter):
    """Lets the first lines of each kind through in a minute; then one line counts the others.

    Lines that strangers can cause name their kind, as ``extra={"kind": …}``; all lines of waitress are of one kind.
    Other lines are never held back.
    """

    def __init__(self, most: int = MAX_A_MINUTE) -> None:
        """Let ``most`` lines of a kind through."""
        super().__init__()
        self._most = most
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        kind = getattr(record, "kind", "waitress" if record.name.startswith("waitress") else None)
        if kind is None:
            return True
        with self._lock:
            seen = self._seen[kind] = self._seen.get(kind, 0) + 1
        if seen == 1:
            timer = threading.Timer(60.0, self._count, (kind, record))
            timer.daemon = True
            timer.start()
        return seen <= self._most

    def _count(self, kind: str, first: logging.LogRecord) -> None:
        with self._lock:
            more = self._seen.pop(kind) - self._most
        if more > 0:
            logger.log(first.levelno, "and %s more in the last minute, such as: %s", f"{more:,}", first.getMessage())


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
    handler.addFilter(FloodFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    quiet_downloads()
    # Each request that finds all threads busy would be a line.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


def quiet_downloads() -> None:
    """Silence a line for every request: they carry addresses, and ours say what matters."""
    for name in ("httpcore", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
