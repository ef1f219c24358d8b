"""What workers count and how they are: read by the status, the metrics and the status page."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Trouble:
    """Why a cache cannot be used now.

    Attributes:
        what: Cache, failure and cause, such as "the cache in /data cannot be written (No space left on device)".
        cost: What this means for the user.
        since: ``time.time()`` of the first failure.
    """

    what: str
    cost: str
    since: float

    def __str__(self) -> str:
        """The whole sentence, with the time of day, or with the date if it began on an earlier day."""
        since, today = time.localtime(self.since), time.localtime()
        form = "%H:%M" if since[:3] == today[:3] else "%Y-%m-%d %H:%M"
        return f"{self.what} since {time.strftime(form, since)}: {self.cost}"


@dataclass(frozen=True)
class Tier:
    """One cache tier of one worker; it counts from the start of the worker's process.

    Attributes:
        bytes: Size of what the tier holds now.
        limit: Most bytes it may hold.
        entries: Images it holds.
        hits: Times an image was found in it.
        misses: Times an image was not found in it.
        evictions: Images that had to make room for others.
        failures: Times that it could not be written, read or reached.
        damaged: Files that were there and could not be used.
        paused: Whether the tier is left alone for a while after a failure.
        trouble: What keeps it from being used now.
    """

    bytes: int
    limit: int
    entries: int
    hits: int
    misses: int
    evictions: int
    failures: int = 0
    damaged: int = 0
    paused: bool = False
    trouble: Trouble | None = None

    @property
    def troubled(self) -> bool:
        """Whether something keeps the tier from being used now."""
        return self.trouble is not None


@dataclass(frozen=True)
class Figures:
    """Counters and gauges of one replica at one moment. A new one goes here and into ``server/metrics.py``.

    Attributes:
        waiting: Requests that wait. A replica counts its queue; a pool of processes counts the clicks whose callers
            still wait, whether a worker has them or not.
        superseded: Requests that were answered with a newer request's mask.
        refused: Requests that found the queue full.
        encoded: Times the model ran.
        encode_seconds: Time of the latest run, or of the warm-up if there was no other.
        age: Seconds for which the longest of the steps in work has been running; 0 if nothing runs.
        hang_seconds: A step that takes longer than this has hung.
        rss: Resident memory of the process in bytes; 0 if the system does not tell.
        tiers: The caches ``device``, ``memory`` and ``disk``.
        view: See :class:`~m2n2_backend.worker.interface.Answer`; that of the latest answer.
    """

    waiting: int = 0
    superseded: int = field(default=0, metadata={"is_counter": True})
    refused: int = field(default=0, metadata={"is_counter": True})
    encoded: int = field(default=0, metadata={"is_counter": True})
    encode_seconds: float = 0.0
    age: float = 0.0
    hang_seconds: float = math.inf
    rss: int = 0
    tiers: Mapping[str, Tier] = field(default_factory=dict)
    view: str = ""

    def after(self, earlier: Figures) -> Figures:
        """These figures with the counters of an earlier process of the same worker added."""
        counters = [name for name, each in self.__dataclass_fields__.items() if each.metadata.get("is_counter")]
        return replace(self, **{name: getattr(self, name) + getattr(earlier, name) for name in counters})


@dataclass(frozen=True)
class WorkerStats:
    """One worker as its latest message describes it.

    Attributes:
        device: Name of its device in words.
        alive: Whether it can take work now.
        figures: What it counts.
        restarts: Times that its process was started again after it died.
        timed_out: Requests whose deadline passed before their answer.
        silence: Seconds since its latest message, which is the age of these figures.
        name: Name of a replica in a cluster, empty for a worker of this machine.
        node: Address of the replica's machine, empty for a worker of this machine.
    """

    device: str
    alive: bool
    figures: Figures
    restarts: int = 0
    timed_out: int = 0
    silence: float = 0.0
    name: str = ""
    node: str = ""


def cache_troubles(workers: Iterable[WorkerStats]) -> str:
    """What keeps caches of living workers from being used, each cause once however many workers share the cache.

    The machines are named if workers on other machines do not have the trouble.
    """
    living = [worker for worker in workers if worker.alive]
    found: dict[tuple[str, str], tuple[float, set[str]]] = {}
    for worker in living:
        for tier in worker.figures.tiers.values():
            if (own := tier.trouble) is not None:
                since, nodes = found.get((own.what, own.cost), (own.since, set[str]()))
                found[own.what, own.cost] = min(since, own.since), nodes | {worker.node}
    everywhere = {worker.node for worker in living}
    return "; ".join(
        str(Trouble(what if nodes == everywhere else f"on {', '.join(sorted(nodes))} {what}", cost, since))
        for (what, cost), (since, nodes) in found.items()
    )
