"""45 clicks at once on images that nobody has prepared, beside a bystander: of one project, of many, and cold again.

`python tests/load/cold_clicks.py`, on a machine that does nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from under_attack import Running, at_once, bystander, key_point, picture, question, report, running

CLICKS = 45
SIZE = (1600, 1200)


def files(server: Running, first: int, number: int = CLICKS) -> list[str]:
    """Addresses of images that no other call gives."""
    return [server.put(f"cold{first + each}.jpg", picture(first + each, SIZE)) for each in range(number)]


def click(server: Running, address: str, task: int, project: str) -> tuple[int, str, float]:
    """Status, what was said, seconds."""
    started = time.monotonic()
    body = question(address, [key_point(50, 50, size=SIZE)], task=task, project=project)
    status, said = server.call("POST", "/predict", body)
    return status, said if status != 200 else "", time.monotonic() - started


def attack(server: Running, addresses: list[str], projects: list[str]) -> dict[str, Any]:
    """All at once; two seconds later one cold click of a project of its own."""
    (late,) = files(server, 10_000 + int(time.monotonic()), 1)
    other = list[tuple[int, str, float]]()
    with bystander(server) as seen:
        waiting = threading.Timer(2.0, lambda: other.append(click(server, late, 9999, "8")))
        waiting.start()
        answers = at_once(len(addresses), lambda index: click(server, addresses[index], 100 + index, projects[index]))
        waiting.join()
    (status, said, seconds) = other[0]
    return {
        **seen.figures(),
        "attack_statuses": dict(Counter(status for status, _, _ in answers)),
        "attack_said": sorted({said for _, said, _ in answers if said})[:4],
        "other_cold_click": [status, said, round(seconds, 1)],
    }


def main() -> None:
    """Run all of them."""
    with running() as server:
        report("45 cold clicks of one project", attack(server, files(server, 100), ["1"] * CLICKS))
    with running() as server:
        invented = [f"{1000 + index}" for index in range(CLICKS)]
        report("45 cold clicks of as many projects", attack(server, files(server, 200), invented))
    with running(device_cache=1, memory_cache=1, disk_cache=0) as server:
        # Each was answered once, and is prepared no more: there is no room.
        addresses = files(server, 300)
        for index, address in enumerate(addresses):
            click(server, address, index, "1")
        report("45 clicks on images that were prepared once", attack(server, addresses, ["1"] * CLICKS))


if __name__ == "__main__":
    main()
