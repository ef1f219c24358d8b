"""Whether a cache can be written and read, noted where it is used, so that an operator's question costs no access."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from m2n2_backend.worker.figures import Trouble

logger = logging.getLogger(__name__)

TRY_SECONDS = 10.0
"""Time between two tries whether a cache that failed works again."""

_LOG_SECONDS = 300.0  # between two lines about the same trouble
_LONGEST_CAUSE = 200


@dataclass(frozen=True)
class Terms:
    """What may fail with a kind of cache, and what follows.

    Attributes:
        name: What people call the cache; the address is put in at ``{}``.
        costs: What may fail ("written", "read", …), the gravest first, and what it costs while it does.
        looking: The entry of ``costs`` that fails where nothing can be read.
        pause_seconds: How long the cache is left alone after a failure, unless a try finds that it works again.
        is_shared: Whether a network may lie between. Then every call has a limit of time, and a cache that cannot be
            read is left alone, too.
    """

    name: str
    costs: Mapping[str, str]
    looking: str
    pause_seconds: float
    is_shared: bool


LOCAL = Terms(
    "the cache in {}",
    {
        "written": "images are encoded again after a restart",
        "read": "images are encoded again",
        "cleaned up": "it may grow beyond M2N2_DISK_CACHE",
    },
    looking="read",
    pause_seconds=300.0,
    is_shared=False,
)
"""A folder of this machine. A full disk can still be read, and to be refused costs nothing."""

SHARED = Terms(
    "the store {}",
    {
        "reached": "images are encoded without it",
        "written": "each machine encodes its images itself",
        "cleaned up": "it may grow beyond M2N2_DISK_CACHE",
    },
    looking="reached",
    pause_seconds=60.0,
    is_shared=True,
)
"""A folder or bucket that machines share. A click would wait for each call to a service that does not answer."""


class CacheHealth:
    """What went wrong with one cache, from the first failure on until it works again. Threads share it.

    Attributes:
        failures: How often the cache could not be used, tries whether it works again included.
        damaged: How many files existed but could not be used.
    """

    def __init__(self, name: str, costs: Mapping[str, str], pause_seconds: float) -> None:
        """Start with a cache that works; see :class:`Terms` for the arguments."""
        self.failures = self.damaged = 0
        self._name = name
        self._costs = costs
        self._pause_seconds = pause_seconds
        self._resume_at: dict[str, float] = {}
        self._tried_at = self._logged_at = -math.inf
        self._troubles: dict[str, Trouble] = {}

    @property
    def paused(self) -> bool:
        """Whether the cache is left alone for a while, at least in part."""
        return any(map(self.is_paused, self._costs))

    def is_paused(self, what: str) -> bool:
        """Whether the cache is left alone because this failed."""
        return time.monotonic() < self._resume_at.get(what, 0.0)

    @property
    def trouble(self) -> Trouble | None:
        """The gravest failure that goes on now."""
        found = (self._troubles.get(what) for what in self._costs)
        return next((trouble for trouble in found if trouble is not None), None)

    def failed(self, what: str, error: OSError | str, *, pause: bool = True) -> None:
        """Note a failure.

        Args:
            what: A key of ``costs``.
            error: The exception, or the cause in words.
            pause: Whether to leave the cache alone now. To try again at every click does not cure a full disk.
        """
        self.failures += 1
        if pause:
            self._resume_at[what] = time.monotonic() + self._pause_seconds
        cause = error if isinstance(error, str) else error.strerror or str(error) or type(error).__name__
        cause = " ".join(cause.split())[:_LONGEST_CAUSE]
        told = f"{self._name} cannot be {what} ({cause})"
        before = self._troubles.get(what)
        since = time.time() if before is None else before.since
        self._troubles[what] = Trouble(told, self._costs[what], since)
        is_known = before is not None and before.what == told
        if not is_known or time.monotonic() - self._logged_at > _LOG_SECONDS:
            self._logged_at = time.monotonic()
            logger.warning("%s: %s", told, self._costs[what])

    def works(self, *what: str) -> None:
        """Note that these succeeded, which ends their pauses."""
        ended = [trouble for each in what if (trouble := self._troubles.pop(each, None)) is not None]
        for each in what:
            self._resume_at.pop(each, None)
        if ended and not self._troubles:
            logger.warning("%s works again", self._name)

    def is_due(self) -> bool:
        """Whether to try the cache now: at the start, and every ``TRY_SECONDS`` while it cannot be used."""
        now = time.monotonic()
        if self._tried_at > -math.inf and (self.trouble is None or now - self._tried_at < TRY_SECONDS):
            return False
        self._tried_at = now
        return True
