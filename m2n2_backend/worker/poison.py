"""Images that bring their worker down again and again, kept away from it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import TTLCache

from m2n2_backend.errors import ImageRefused

DEATHS = 2
"""An image in work at so many deaths in a row is refused."""

REFUSED_SECONDS = 600.0
"""For so long; then it may be tried again, as the cause may have been another."""

_REMEMBERED = 1024


class Poison:
    """Deaths counted by image; threads share it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # By image: how many, and when the last was.
        self._deaths: TTLCache[str, tuple[int, float]] = TTLCache(_REMEMBERED, REFUSED_SECONDS, timer=clock)

    def died(self, key: str) -> None:
        """An image was in work when its worker died."""
        with self._lock:
            self._deaths[key] = (self._deaths.get(key, (0, 0.0))[0] + 1, self._clock())

    def survived(self, key: str) -> None:
        """An image was answered: it was not the cause."""
        with self._lock:
            self._deaths.pop(key, None)

    def is_suspect(self, key: str) -> bool:
        """Whether it was in work at a death and has not been answered since."""
        with self._lock:
            return key in self._deaths

    def refusal(self, key: str) -> ImageRefused | None:
        """Why an image may not be tried now, None where it may."""
        with self._lock:
            deaths, at = self._deaths.get(key, (0, 0.0))
            if deaths < DEATHS:
                return None
            minutes = (REFUSED_SECONDS - (self._clock() - at)) / 60
        return ImageRefused(
            f"this image brought the model's process down {DEATHS} times; it is refused for {minutes:.0f} minutes: "
            "see the log, and try a smaller copy of the image"
        )
