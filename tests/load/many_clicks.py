"""Objects of many clicks, beside a bystander: CPU seconds in one request and one by one, and what others notice.

`python tests/load/many_clicks.py`, on a machine that does nothing else.
"""

from __future__ import annotations

import os
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

from under_attack import Running, at_once, bystander, key_point, picture, question, report, running

NUMBERS = (10, 20, 40, 64)
SIZE = (1600, 1200)


def clicks(number: int) -> list[dict[str, Any]]:
    """Key points all over the image, every third one background."""
    places = random.Random(7)
    found = [key_point(50, 50, "p0", SIZE)]
    for index in range(1, number):
        point = key_point(places.uniform(5, 95), places.uniform(5, 95), f"p{index}", SIZE)
        found.append({**point, "is_positive": index % 3 > 0})
    return found


def cpu_seconds(server: Running) -> float:
    """CPU time of the web process and all below it, so far."""
    ticks = 0
    for pid in server.processes():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def ask(server: Running, address: str, points: list[dict[str, Any]], task: int) -> tuple[int, str, float]:
    """Status, what was said instead of a mask, seconds."""
    started = time.monotonic()
    status, said = server.call("POST", "/predict", question(address, points, task=task))
    return status, said if status != 200 else "", time.monotonic() - started


def click_64_times(server: Running, addresses: list[str], index: int) -> tuple[int, str, float]:
    """One request with 64 clicks on one of the images."""
    return ask(server, addresses[index], clicks(64), task=index)


def cost(server: Running) -> dict[str, Any]:
    """CPU seconds of objects that differ in their number of clicks, the image prepared beforehand."""
    figures: dict[str, Any] = {}
    for way in ("one request", "one by one"):
        own = []
        for index, number in enumerate(NUMBERS):
            address = server.put(f"{way[4:]}{number}.jpg", picture(100 * number + len(way), SIZE))
            ask(server, address, clicks(number)[:1], task=index)
            points, before = clicks(number), cpu_seconds(server)
            for end in range(2, number + 1) if way == "one by one" else [number]:
                status, said, _ = ask(server, address, points[:end], task=index)
                assert status == 200, said
            own.append(round(cpu_seconds(server) - before, 2))
        figures[way] = dict(zip(NUMBERS, own, strict=True))
    return figures


def main() -> None:
    """Run all of them."""
    with running() as server:
        report("CPU seconds by number of clicks", cost(server))
    for at_a_time in (1, 4):
        with running() as server:
            addresses = [server.put(f"many{index}.jpg", picture(500 + index, SIZE)) for index in range(at_a_time)]
            for index, address in enumerate(addresses):
                ask(server, address, clicks(1), task=index)
            with bystander(server) as seen:
                answers = at_once(at_a_time, partial(click_64_times, server, addresses))
            report(f"{at_a_time} x 64 clicks at once", {**seen.figures(), "answers": answers})
    with running() as server:
        address = server.put("many.jpg", picture(900, SIZE))
        with bystander(server) as seen:
            answers = [ask(server, address, clicks(400), task=1)]
        report("400 clicks", {**seen.figures(), "answers": answers})


if __name__ == "__main__":
    main()
