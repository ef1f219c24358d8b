"""How many annotators so many GPUs bear: replicas that only wait, on the ring that Ray's router makes.

`python tests/cluster/simulation.py` needs mmh3, but not Ray. An annotator opens an image every thirty seconds, which
is encoded when the model has nothing more urgent, and clicks ten times. Clicks go before encoding, and nothing is
interrupted, as in the replica. What an image and a click cost is assumed, not measured: 250 ms and 15 ms, a guess at
an H200; `--encode` and `--click` take measured seconds instead. Found is the largest number of annotators whose 95th
percentile of a click stays below 300 ms while no replica is busy for more than 95 % of the time. `--annotators 40`
tells instead how long that many wait.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import mmh3
import numpy as np

IMAGE_SECONDS, CLICKS, THINK = 30.0, 10, 2.5
LIMIT, BUSIEST = 0.300, 0.95
SECONDS, WARM_UP = 120.0, 30.0
SEED = 0xF9B4CA77  # of Ray's ConsistentHashRouter, whose ring this is
WARM, COLD, PREFETCH = 0, 1, 2
CATALOG = 200  # images that Zipf's popularity is over

Route = Callable[[str, list["Replica"]], int]


class Cost(NamedTuple):
    """Seconds that one replica takes for an image and for a click; the defaults are a guess at an H200."""

    encode: float = 0.250
    click: float = 0.015


def ring(replicas: int, places: int, seed: int = 0) -> Callable[[str], int]:
    """Image → replica, as Ray's router does it."""
    hashed = sorted(
        (mmh3.hash64(f"replica{seed}-{replica}:{place}".encode(), seed=SEED, signed=False)[0], replica)
        for replica in range(replicas)
        for place in range(places)
    )
    points = [point for point, _ in hashed]

    def find(key: str) -> int:
        at = bisect.bisect_right(points, mmh3.hash64(key.encode(), seed=SEED, signed=False)[0])
        return hashed[at % len(hashed)][1]

    return find


def on_ring(replicas: int, places: int) -> Route:
    find = ring(replicas, places)
    return lambda key, _: find(key)


def less_loaded_of_two(replicas: int, places: int) -> Route:
    """A cold image goes to the less loaded of two places, and stays there."""
    find, chosen = ring(replicas, places), dict[str, int]()

    def route(key: str, loads: list[Replica]) -> int:
        if key not in chosen:
            chosen[key] = min(find(key), find(key + "#2"), key=lambda replica: loads[replica].load)
        return chosen[key]

    return route


@dataclass
class Replica:
    """One device: a queue and a time at which it is free."""

    free: float = 0.0
    waiting: list[tuple[int, float, int, str]] = field(default_factory=list)
    busy: float = 0.0

    @property
    def load(self) -> int:
        return len(self.waiting)


def latencies(
    annotators: int, replicas: int, route: Route, cost: Cost, *, zipf: bool
) -> tuple[np.ndarray, list[float]]:
    """Seconds of every click after the warm-up, and each replica's busy time."""
    generator = np.random.default_rng(1)
    popularity = 1 / np.arange(1, CATALOG + 1)
    popularity /= popularity.sum()
    events: list[tuple[float, int, str, str]] = []  # time, number, kind, image
    number = 0
    for annotator in range(annotators):
        at, count = generator.uniform(0, IMAGE_SECONDS), 0
        while at < SECONDS:
            image = str(generator.choice(CATALOG, p=popularity)) if zipf else f"{annotator}/{count}"
            events.append((at, number := number + 1, "open", image))
            click = at + IMAGE_SECONDS - CLICKS * THINK
            for _ in range(CLICKS):
                click += generator.exponential(THINK)
                events.append((click, number := number + 1, "click", image))
            at, count = at + IMAGE_SECONDS, count + 1
    places, encoded, asked = [Replica() for _ in range(replicas)], set[str](), set[str]()
    found: list[float] = []
    heapq.heapify(events)
    while events:
        at, order, kind, image = heapq.heappop(events)
        place = int(image) if kind == "done" else route(image, places)
        replica = places[place]
        if kind == "open" and image not in asked:
            heapq.heappush(replica.waiting, (PREFETCH, at, order, image))
            asked.add(image)
        elif kind == "click":
            heapq.heappush(replica.waiting, (WARM if image in encoded else COLD, at, order, image))
        while replica.free <= at and replica.waiting:
            urgency, since, order, image = heapq.heappop(replica.waiting)
            seconds = (0.0 if urgency == PREFETCH else cost.click) + (0.0 if image in encoded else cost.encode)
            if seconds:  # else a click has encoded it meanwhile
                encoded.add(image)
                replica.free = at + seconds
                replica.busy += seconds
                heapq.heappush(events, (replica.free, order, "done", str(place)))
            if urgency != PREFETCH and since > WARM_UP:
                found.append(replica.free - since)
    return np.array(found), [replica.busy for replica in places]


def most_annotators(replicas: int, make: Callable[[int], Route], cost: Cost, *, zipf: bool) -> tuple[int, float]:
    """The largest number below the limit, and the busiest replica's work in units of the mean."""
    low, high = 1, 250 * replicas
    share = 1.0
    while high - low > max(1, replicas // 2):
        middle = (low + high) // 2
        times, busy = latencies(middle, replicas, make(replicas), cost, zipf=zipf)
        # Prefetches that pile up would reach the clicks later than this looks.
        if np.percentile(times, 95) < LIMIT and max(busy) < BUSIEST * SECONDS:
            low, share = middle, replicas * max(busy) / sum(busy)
        else:
            high = middle
    return low, share


def key_shares(replicas: int, places: int, rings: int = 20) -> float:
    """The busiest replica's share of 20,000 images times the number of replicas: the mean of several rings."""
    shares = []
    for seed in range(rings):
        find = ring(replicas, places, seed)
        counts = Counter(find(str(number)) for number in range(20_000))
        shares.append(replicas * max(counts.values()) / 20_000)
    return float(np.mean(shares))


def waits(annotators: int, replicas: int, cost: Cost) -> dict[str, float]:
    """What so many annotators with images of their own wait for a click, and how busy the busiest replica is."""
    times, busy = latencies(annotators, replicas, on_ring(replicas, 1000), cost, zipf=False)
    p50, p95 = 1e3 * np.percentile(times, [50, 95])
    return {
        "annotators": annotators,
        "replicas": replicas,
        "p50_ms": round(p50),
        "p95_ms": round(p95),
        "busiest": round(max(busy) / SECONDS, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encode", type=float, default=Cost().encode, help="seconds to encode an image")
    parser.add_argument("--click", type=float, default=Cost().click, help="seconds to answer a click")
    parser.add_argument("--annotators", type=int, help="tell what so many wait, and find nothing")
    given = parser.parse_args()
    cost = Cost(given.encode, given.click)
    if given.annotators:
        for replicas in (1, 2, 4, 8, 16):
            print(json.dumps(waits(given.annotators, replicas, cost)), flush=True)
    else:
        find_all(cost)


def find_all(cost: Cost) -> None:
    """Print the most annotators for each route and number of replicas."""
    routes: dict[str, Callable[[int], Route]] = {
        "ring of 100": lambda replicas: on_ring(replicas, 100),
        "ring of 1000": lambda replicas: on_ring(replicas, 1000),
        "less loaded of two": lambda replicas: less_loaded_of_two(replicas, 1000),
    }
    table = []
    for zipf in (False, True):
        for name, make in routes.items():
            alone = 0
            for replicas in (1, 2, 4, 8, 16):
                annotators, share = most_annotators(replicas, make, cost, zipf=zipf)
                alone = alone or annotators
                row = {
                    "images": "Zipf" if zipf else "own",
                    "route": name,
                    "replicas": replicas,
                    "annotators": annotators,
                    "clicks_per_second": round(annotators * CLICKS / IMAGE_SECONDS, 1),
                    "of_linear": round(annotators / alone / replicas, 2),
                    "busiest": round(share, 2),
                }
                table.append(row)
                print(json.dumps(row), flush=True)
    for places in (100, 1000):
        print("busiest share of keys, 8 replicas,", places, "places:", round(key_shares(8, places), 3))


if __name__ == "__main__":
    main()
