"""Time as a process has lived it: what it slept through does not count."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class AwakeClock:
    """Seconds for which this process was running; threads share it.

    A process that was stopped, swapped out, or on a machine that was paused finds that the system's clock has jumped.
    If it measured with that clock how long others have said nothing, it would blame them for its own sleep.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, most: float = 2.0) -> None:
        """Begin at 0.

        Args:
            clock: In seconds.
            most: Seconds that count between two readings. It has to be read more often than that.
        """
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._read_at = clock()
        self._seconds = 0.0

    def __call__(self) -> float:
        """Seconds until now."""
        with self._lock:
            now = self._clock()
            self._seconds += min(now - self._read_at, self._most)
            self._read_at = now
            return self._seconds
