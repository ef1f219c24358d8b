"""The page at /: what runs here, how full the caches are, and why the last requests failed."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from m2n2_backend import __version__
from m2n2_backend.worker.figures import WorkerStats
from m2n2_backend.worker.interface import Status

KEPT = 50
"""Requests shown."""

_LONGEST = 500
_QUERY = re.compile(r"\?[^\s)>\"']+")
_TOKEN = re.compile(r"\b[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+|\b[0-9a-fA-F]{32,}\b")


@dataclass(frozen=True)
class Seen:
    """One answered request.

    Attributes:
        at: ``time.time()``.
        route: The method and the rule, such as "POST /predict".
        subject: Project and task, as far as the request names them.
        status: HTTP status.
        cause: Why the request failed, without secrets; empty where it did not.
        milliseconds: Time it took.
    """

    at: float
    route: str
    subject: str
    status: int
    cause: str
    milliseconds: float


class RecentRequests:
    """The latest requests; threads share it."""

    def __init__(self) -> None:
        self._seen: deque[Seen] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, route: str, subject: str, status: int, cause: str, seconds: float) -> None:
        """Note a request; what looks like a token in its cause is left out."""
        seen = Seen(time.time(), route, subject, status, without_secrets(cause[:_LONGEST]), 1000.0 * seconds)
        with self._lock:
            self._seen.appendleft(seen)

    def latest(self) -> list[Seen]:
        """Newest first."""
        with self._lock:
            return list(self._seen)


def without_secrets(text: str) -> str:
    """The text without the queries of addresses and without what looks like a token."""
    return _TOKEN.sub("…", _QUERY.sub("?…", text))


class StatusPage:
    """The template of the page, ``templates/status.html``; all that is put into it is escaped."""

    def __init__(self) -> None:
        self._template = _template()

    def render(self, status: Status, workers: Sequence[WorkerStats], requests: Sequence[Seen]) -> str:
        """The page, self-contained HTML that reloads itself."""
        return self._template.render(version=__version__, status=status, workers=workers, requests=requests)


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GB" if count >= 1024**3 else f"{count / 1024**2:.0f} MB"


@functools.cache
def _template() -> Template:
    """Compiled once in a process."""
    environment = Environment(
        loader=PackageLoader("m2n2_backend.server"), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    )
    environment.filters["size"] = _size
    environment.filters["without_secrets"] = lambda found: without_secrets(str(found))
    environment.filters["time_of_day"] = lambda at: time.strftime("%H:%M:%S", time.localtime(at))
    return environment.get_template("status.html")
