"""Open-loop load: requests arrive when a Poisson process says, not when an earlier answer is there.

A latency counts from the intended arrival: a server that stands still for a second delays everything that should have
come meanwhile, which a loop of clients that wait would hide.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from m2n2_backend.commands.bench.photographs import Size, new_clicks
from m2n2_backend.prompts import Click

Abuse = Literal["damaged", "removed", "full", "readonly"]

SENDERS = 128  # requests under way at once; more wait, and their waiting counts
OBJECTS, CLICKS = 5, 4  # of an image, and of an object


@dataclass(frozen=True)
class Load:
    """What the server has to bear.

    Attributes:
        rate: Mean arrivals per second.
        seconds: In which they arrive.
        images: Photographs; the k-th most popular one is asked about 1/k as often as the first (Zipf).
        kill_every: Seconds between two kills of a worker process, each of the one that has lived longest, so that
            several are killed in turn; None kills none.
        abuse: What happens to the cache folder after a quarter of the time, or from the start where it is full.
    """

    rate: float = 2.0
    seconds: float = 30.0
    images: int = 40
    kill_every: float | None = None
    abuse: Abuse | None = None


@dataclass(frozen=True)
class Arrival:
    """A request that is to be sent ``at`` seconds after the start: all clicks of an object so far."""

    at: float
    image: str
    clicks: tuple[Click, ...]


@dataclass(frozen=True)
class Answer:
    """What came of an arrival: HTTP status (0: the connection broke), reason phrase, brush RLE, times in ms."""

    arrival: Arrival
    status: int
    reason: str
    rle: bytes
    latency: float  # from the intended arrival
    sent: float  # from when it was really sent


def arrivals_of(load: Load, images: Sequence[str], size: Size) -> list[Arrival]:
    """Poisson arrivals on images of Zipf popularity; the same in every run."""
    generator = np.random.default_rng(0)
    popularity = 1 / np.arange(1, len(images) + 1)
    popularity /= popularity.sum()
    found, at = list[Arrival](), 0.0
    while (at := at + generator.exponential(1 / load.rate)) < load.seconds:
        image = int(generator.choice(len(images), p=popularity))
        clicks = new_clicks(size, CLICKS, seed=image * OBJECTS + int(generator.integers(OBJECTS)))
        found.append(Arrival(at, images[image], tuple(clicks[: int(generator.integers(1, CLICKS + 1))])))
    return found


def drive(
    arrivals: Iterable[Arrival],
    send: Callable[[Arrival], tuple[int, str, bytes]],
    *,
    senders: int = SENDERS,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Answer]:
    """Send each request when it is due, whatever became of those before, and wait for all answers."""
    start = now()

    def one(arrival: Arrival) -> Answer:
        sent = now()
        status, reason, rle = send(arrival)
        end = now()
        return Answer(arrival, status, reason, rle, (end - start - arrival.at) * 1e3, (end - sent) * 1e3)

    with ThreadPoolExecutor(senders) as pool:
        pending = []
        for arrival in arrivals:
            sleep(max(0.0, start + arrival.at - now()))
            pending.append(pool.submit(one, arrival))
        return [each.result() for each in pending]


def figures_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts and latencies of a load.

    Returns:
        ``requests``, ``answered``, ``images_asked``, ``refused`` (number by status and reason), and of those answered
        ``latency_ms`` (from the intended arrival) and ``sent_ms`` (from the sending): p50, p95, p99, p100.
    """
    answered = [each for each in answers if each.status == 200]
    refused = Counter(
        f"{each.status} {re.sub(r'[0-9]+', 'N', each.reason)}" for each in answers if each.status != 200
    )
    return {
        "requests": len(answers),
        "answered": len(answered),
        "images_asked": len({each.arrival.image for each in answers}),
        "refused": dict(refused),
        "latency_ms": percentiles([each.latency for each in answered], 50, 95, 99, 100),
        "sent_ms": percentiles([each.sent for each in answered], 50, 95, 99, 100),
    }


def warm_latencies(answers: Iterable[Answer], kills: Sequence[float]) -> list[float]:
    """Ms of those requests whose image was answered before they were due, with no kill between that and their end.

    Args:
        answers: All answers of one load.
        kills: Seconds after its start.
    """
    answered = [(each, each.arrival.at + each.latency / 1e3) for each in answers if each.status == 200]
    first: dict[tuple[str, int], float] = {}  # by image and number of kills before: end of the first answer
    for each, end in sorted(answered, key=lambda pair: pair[1]):
        first.setdefault((each.arrival.image, sum(kill < end for kill in kills)), end)
    return [
        each.latency
        for each, end in answered
        if first[each.arrival.image, sum(kill < end for kill in kills)] < each.arrival.at
    ]


def percentiles(times: Sequence[float], *ranks: int) -> dict[str, float]:
    """``p50`` and so on; empty where there are no times."""
    return {f"p{rank}": float(np.percentile(times, rank)) for rank in ranks} if times else {}
