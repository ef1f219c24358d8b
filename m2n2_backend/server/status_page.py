"""The page at /: what runs here, how full the caches are, and why the last requests failed."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from m2n2_backend import __version__
from m2n2_backend.server.titles import ProjectTitles
from m2n2_backend.worker.figures import WorkerStats
from m2n2_backend.worker.interface import Status

KEPT = 50
"""Requests shown, and as many more to /setup that went well: Label Studio sends one for each page that is opened."""

TIMED = 1000
"""Latest clicks whose times and scores are summed up."""

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
        score: Score of the mask that it was answered with, None where there was no mask.
        project: Label Studio's id of the project, empty where the request does not name it.
    """

    at: float
    route: str
    subject: str
    status: int
    cause: str
    milliseconds: float
    score: float | None = None
    project: str = ""


@dataclass(frozen=True)
class Clicks:
    """A summary of the latest clicks that were answered with a mask.

    Attributes:
        count: Number of clicks, at most ``TIMED``.
        p50: Median time in milliseconds.
        p95: Time in milliseconds that 95 % of them did not exceed.
        score: Median score of the masks.
    """

    count: int
    p50: float
    p95: float
    score: float


class RecentRequests:
    """The latest requests; threads share it."""

    def __init__(self) -> None:
        self._seen: deque[Seen] = deque(maxlen=KEPT)
        self._setups: deque[Seen] = deque(maxlen=KEPT)
        self._clicks: deque[Seen] = deque(maxlen=TIMED)
        self._lock = threading.Lock()

    def add(
        self,
        route: str,
        subject: str,
        status: int,
        cause: str,
        seconds: float,
        score: float | None = None,
        project: str = "",
    ) -> None:
        """Note a request; what looks like a token in its cause is left out."""
        cause = without_secrets(cause[:_LONGEST])
        seen = Seen(time.time(), route, subject, status, cause, 1000.0 * seconds, score, project)
        is_quiet = route.endswith("/setup") and status < 400
        with self._lock:
            (self._setups if is_quiet else self._seen).appendleft(seen)
            if score is not None:
                self._clicks.append(seen)

    def latest(self) -> list[Seen]:
        """Newest first, without those of :meth:`setups`."""
        with self._lock:
            return list(self._seen)

    def setups(self) -> list[Seen]:
        """The requests to /setup that went well, newest first."""
        with self._lock:
            return list(self._setups)

    def clicks(self) -> Clicks | None:
        """The latest clicks in figures; None before the first one."""
        with self._lock:
            clicks = list(self._clicks)
        if not clicks:
            return None
        times = sorted(one.milliseconds for one in clicks)
        scores = [one.score for one in clicks if one.score is not None]
        return Clicks(len(times), median(times), times[ceil(0.95 * len(times)) - 1], median(scores))


def without_secrets(text: str) -> str:
    """The text without the queries of addresses and without what looks like a token."""
    return _TOKEN.sub("…", _QUERY.sub("?…", text))


class StatusPage:
    """The template of the page, ``templates/status.html``; all that is put into it is escaped."""

    def __init__(self) -> None:
        self._template = _template()

    def render(
        self,
        status: Status,
        workers: Sequence[WorkerStats],
        recent: RecentRequests,
        titles: ProjectTitles | None = None,
    ) -> str:
        """The page, self-contained HTML that reloads itself."""
        return self._template.render(
            version=__version__,
            status=status,
            workers=workers,
            requests=recent.latest(),
            setups=recent.setups(),
            clicks=recent.clicks(),
            title=titles.get if titles else lambda project: "",
        )


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
