"""The page at /: what runs here, how full the caches are, and why the last requests failed."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from m2n2_backend import __version__
from m2n2_backend.worker.figures import Tier, WorkerStats
from m2n2_backend.worker.interface import Status

KEPT = 50
"""Requests shown."""

_LONGEST = 500
_QUERY = re.compile(r"\?[^\s)>\"']+")
_TOKEN = re.compile(r"\b[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+|\b[0-9a-fA-F]{32,}\b")
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.25rem .6rem;
border-bottom:1px solid #ddd;vertical-align:top}th,td.n,td.r{white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.ok{color:#17692f}.bad{color:#a3161a}.state{font-weight:600}"""


@dataclass(frozen=True)
class Seen:
    """One answered request.

    Attributes:
        at: ``time.time()``.
        route: Hyperparameters and rule.
        subject: Project and task, as far as the request told.
        status: HTTP status.
        cause: Of a failure, without secrets; empty otherwise.
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


def status_page(status: Status, workers: Sequence[WorkerStats], requests: Sequence[Seen]) -> str:
    """The page, self-contained HTML that reloads itself."""
    good = status.state in ("ready", "loading")
    facts = [
        ("state", f'<span class="state {"ok" if good else "bad"}">{escape(status.state)}</span>'),
        ("backbone", escape(status.backbone)),
        ("device", escape(status.device)),
        ("model version", escape(status.model_version)),
    ]
    if status.detail:
        facts.append(("cause and cure", f'<span class="bad">{escape(without_secrets(status.detail))}</span>'))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        f"<title>m2n2-backend: {escape(status.state)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>m2n2-backend {__version__}</h1><table>"
        + "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts)
        + f"</table><h2>Workers</h2>{_workers(workers)}<h2>Latest requests</h2>{_requests(requests)}</body></html>"
    )


def _workers(workers: Sequence[WorkerStats]) -> str:
    rows = []
    for index, worker in enumerate(workers):
        state = "working" if worker.alive else "not answering"
        figures = worker.figures
        if figures.age:
            state += f" on a step for {figures.age:.0f} s"
        rows.append(
            f"<tr><th>{index}: {escape(worker.device)}{_place(worker)}</th><td>{state}, {figures.waiting} waiting, "
            f"{worker.restarts} restarts, {figures.encoded} images encoded, {figures.superseded} superseded, "
            f"{worker.timed_out} timed out, {figures.refused} refused, {_size(figures.rss)} resident</td></tr>"
        )
        for name, tier in figures.tiers.items():
            share = 100 * tier.bytes / tier.limit if tier.limit else 0
            rows.append(
                f"<tr><td>{name} cache</td><td>{_size(tier.bytes)} of {_size(tier.limit)} ({share:.0f} %), "
                f"{tier.entries} images, {tier.hits} hits, {tier.misses} misses, {tier.evictions} evicted"
                f"{_trouble(tier)}</td></tr>"
            )
    return f"<table>{''.join(rows)}</table>"


def _trouble(tier: Tier) -> str:
    """What went wrong with a cache since its worker started, and what does now."""
    counted = (("failures", tier.failures), ("damaged files", tier.damaged))
    told = "".join(f", {count} {name}" for name, count in counted if count)
    if tier.trouble is None:
        return told
    return f'{told}: <span class="bad state">{escape(without_secrets(str(tier.trouble)))}</span>'


def _place(worker: WorkerStats) -> str:
    """Where a replica of a cluster lives, and of when its figures are."""
    return f" {escape(worker.name)} on {escape(worker.node)}, {worker.silence:.0f} s ago" if worker.name else ""


def _requests(requests: Sequence[Seen]) -> str:
    if not requests:
        return "<p>None yet.</p>"
    rows = (
        f'<tr><td class="r">{time.strftime("%H:%M:%S", time.localtime(seen.at))}</td>'
        f'<td class="r">{escape(seen.route)}</td><td>{escape(seen.subject)}</td>'
        f'<td class="{"ok" if seen.status < 400 else "bad"}">{seen.status}</td>'
        f'<td class="n">{seen.milliseconds:.0f} ms</td><td>{escape(seen.cause)}</td></tr>'
        for seen in requests
    )
    head = "<tr><th>time</th><th>request</th><th>about</th><th>status</th><th>took</th><th>cause</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GB" if count >= 1024**3 else f"{count / 1024**2:.0f} MB"
