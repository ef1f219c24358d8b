"""A clock that counts only the time during which this process was running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class AwakeClock:
    """Seconds for which this process was running; threads share it.

    The system's clock jumps for a process that was stopped or swapped out, or whose machine was paused. If it
    measured with that clock how long others have been silent, it would blame them for its own sleep.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, most: float = 2.0) -> None:
        """Begin at 0.

        Args:
            clock: In seconds.
            most: Most seconds that count between two readings. The clock has to be read more often than that.
        """
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._read_at = clock()
        self._seconds = 0.0

    def __call__(self) -> float:
        """Seconds that have counted until now."""
        with self._lock:
            now = self._clock()
            self._seconds += min(now - self._read_at, self._most)
            self._read_at = now
            return self._seconds
