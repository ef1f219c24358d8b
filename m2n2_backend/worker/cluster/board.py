"""What the processes of a cluster share: figures of replicas, who encodes what, which images bring replicas down."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from m2n2_backend.errors import ImageRefused
from m2n2_backend.prompts import Prompts
from m2n2_backend.worker.cluster.connection import NAMESPACE, import_ray
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.quarantine import Quarantine

STALE_SECONDS = 5.0
"""A replica whose latest report is older than this does not count as alive, and its claims end."""

FORGOTTEN_SECONDS = 60.0
"""A replica that has not reported for this long is taken off the board."""

LONGEST_CLAIM_SECONDS = 300.0
"""A claim ends after this time, although its holder reports: the holder hangs."""

_NAME = "board-2"  # an older version's board lives on beside it; the number changes with the methods and the reports
_DEATHS_KEPT = 1024


@dataclass(frozen=True)
class Report:
    """A replica, and its figures at one moment.

    Attributes:
        application: Its generation.
        replica: Its id.
        actor: The id of its actor, under which it holds claims and by which Ray names it when it has died.
        node: Address of its machine.
        pid: Its process on that machine.
        fingerprint: The backbone's.
        backbone: The backbone in words.
        device: The device in words.
        figures: Counters and gauges of the moment.
    """

    application: str
    replica: str
    actor: str
    node: str
    pid: int
    fingerprint: str
    backbone: str
    device: str
    figures: Figures


class Board:
    """Reports, claims and deaths, kept by one actor. Ray calls one method at a time.

    If the actor is lost, Ray starts another one with an empty board. Replicas report again within a second; an image
    that was being encoded may then be encoded twice, and deaths are counted from the start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[Report, float]] = {}  # by actor
        self._claims: dict[str, tuple[str, float]] = {}  # image → actor, and since when
        self._quarantine = Quarantine(clock)
        self._counted: deque[tuple[str, str]] = deque(
            maxlen=_DEATHS_KEPT
        )  # images and the actors that died with them
        self._died: set[str] = set()

    def put(self, report: Report) -> None:
        """Replace a replica's report."""
        self._reports[report.actor] = report, self._clock()

    def remove(self, actor: str) -> None:
        """Forget a replica that ends."""
        self._reports.pop(actor, None)
        self._end_claims(actor)

    def read(self) -> list[tuple[Report, float]]:
        """All reports with their ages in seconds."""
        now = self._clock()
        self._claims = {key: held for key, held in self._claims.items() if self._is_at_work(*held)}
        self._reports = {
            actor: (report, at) for actor, (report, at) in self._reports.items() if now - at < FORGOTTEN_SECONDS
        }
        return [(report, now - at) for report, at in self._reports.values()]

    def take(self, key: str, actor: str) -> bool:
        """Claim an image; False where another replica that lives is encoding it."""
        held = self._claims.get(key)
        if held is not None and held[0] != actor and self._is_at_work(*held):
            return False
        self._claims[key] = actor, self._clock()
        return True

    def release(self, key: str, actor: str) -> None:
        """End a claim, if the replica holds it."""
        if self._claims.get(key, ("", 0.0))[0] == actor:
            del self._claims[key]

    def died(self, key: str, actor: str, prompts: Prompts | None) -> ImageRefused | None:
        """Note that a replica died with an image in work, once however many callers waited for that image.

        Nobody knows whether the replica had read the image before, so the prompts are refused first, and the image
        only after further deaths with other prompts.

        Returns:
            Why the image, or these prompts on it, are refused from now on; None where they may be tried again.
        """
        self._end_claims(actor)
        if (key, actor) not in self._counted:
            self._counted.append((key, actor))
            self._quarantine.died(key, prompts)
            self._died.add(key)
        return self.refusal(key, prompts)

    def survived(self, key: str, prompts: Prompts | None) -> None:
        """Note that prompts on an image were answered with a mask, so neither brought replicas down."""
        self._quarantine.survived(key, prompts)

    def refusal(self, key: str, prompts: Prompts | None) -> ImageRefused | None:
        """Why an image, or these prompts on it, may not be tried now; None where they may."""
        return self._quarantine.refusal(key, prompts)

    def suspects(self) -> set[str]:
        """Images that were in work when a replica died, and that have not been answered since."""
        self._died = {key for key in self._died if self._quarantine.is_suspect(key)}
        return self._died

    def _end_claims(self, actor: str) -> None:
        self._claims = {key: held for key, held in self._claims.items() if held[0] != actor}

    def _is_at_work(self, actor: str, since: float) -> bool:
        """Whether the holder of a claim lives; one that has not reported yet has ``STALE_SECONDS`` to do so."""
        now = self._clock()
        _, reported_at = self._reports.get(actor, (None, since))
        return now - since < LONGEST_CLAIM_SECONDS and now - max(since, reported_at) < STALE_SECONDS


def board() -> Any:
    """Ray's handle of the board, which is made where there is none."""
    ray = import_ray()
    options = {"name": _NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(Board).options(**options, num_cpus=0, max_restarts=-1).remote()
