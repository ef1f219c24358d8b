"""Whether a cache can be written and read, noted where it is used: an operator asks without touching the disk."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

from m2n2_backend.worker.figures import Trouble

logger = logging.getLogger(__name__)

TRY_SECONDS = 10.0
"""Between two tries whether a cache that failed works again."""

_LOG_SECONDS = 300.0  # between two lines about the same trouble
_LONGEST_CAUSE = 200


class CacheHealth:
    """What went wrong with one cache, from the first failure on until it works again. Threads share it.

    Attributes:
        failures: Times that the cache could not be used, tries whether it works again among them.
        damaged: Files that were there and could not be used.
    """

    def __init__(self, name: str, costs: Mapping[str, str], pause_seconds: float) -> None:
        """Set up the health of a cache that works.

        Args:
            name: What people call the cache.
            costs: What may fail ("written", "read", …), the gravest first, and what it costs while it does.
            pause_seconds: After a failure the cache is left alone for so long.
        """
        self.failures = self.damaged = 0
        self._name = name
        self._costs = costs
        self._pause_seconds = pause_seconds
        self._resume_at = 0.0
        self._tried_at = self._logged_at = -math.inf
        self._troubles: dict[str, Trouble] = {}

    @property
    def paused(self) -> bool:
        """Whether the cache is left alone for a while."""
        return time.monotonic() < self._resume_at

    @property
    def trouble(self) -> Trouble | None:
        """The gravest thing that fails now."""
        found = (self._troubles.get(what) for what in self._costs)
        return next((trouble for trouble in found if trouble is not None), None)

    def failed(self, what: str, error: OSError | str, *, pause: bool = True) -> None:
        """Note a failure.

        Args:
            what: One of ``costs``.
            error: What was raised, or the cause in words.
            pause: Whether to leave the cache alone now: a full disk is not cured by trying at every click.
        """
        self.failures += 1
        if pause:
            self._resume_at = time.monotonic() + self._pause_seconds
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
        """Note that these succeeded; without any trouble left the pause ends."""
        ended = [trouble for each in what if (trouble := self._troubles.pop(each, None)) is not None]
        if ended and not self._troubles:
            self._resume_at = 0.0
            logger.warning("%s works again", self._name)

    def is_due(self) -> bool:
        """Whether to try now if the cache can be used: at the start, and every ``TRY_SECONDS`` while it cannot."""
        now = time.monotonic()
        if self._tried_at > -math.inf and (self.trouble is None or now - self._tried_at < TRY_SECONDS):
            return False
        self._tried_at = now
        return True
