"""Images, and prompts on an image, that bring their worker down again and again are kept away from it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import TTLCache

from m2n2_backend.errors import ImageRefused
from m2n2_backend.prompts import Prompts

DEATHS = 2
"""Deaths in a row after which an image that was being read is refused, or prompts that were being answered."""

CLICKED_DEATHS = 4
"""Deaths after which an image is refused because prompts on it, whichever, were being answered each time. At fewer
deaths others may still click on it."""

REFUSED_SECONDS = 600.0
"""Time after which the image or the prompts may be tried again, as the cause may have been another."""

_REMEMBERED = 1024


class Quarantine:
    """Deaths counted by image and by prompts; threads share it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # The number of deaths and the time of the last: by image, by ("clicked", image), and by hash of an image with
        # its prompts.
        self._deaths: TTLCache[object, tuple[int, float]] = TTLCache(_REMEMBERED, REFUSED_SECONDS, timer=clock)

    def died(self, key: str, prompts: Prompts | None = None) -> None:
        """Count a death during which an image was in work.

        Args:
            key: Hash of the image's file.
            prompts: The prompts that were being answered, if the image itself had been read before.
        """
        with self._lock:
            for counted in [key] if prompts is None else [("clicked", key), hash((key, prompts))]:
                self._deaths[counted] = self._deaths.get(counted, (0, 0.0))[0] + 1, self._clock()

    def survived(self, key: str, prompts: Prompts | None = None) -> None:
        """Forget the deaths of an image and of these prompts: both were answered, so neither was the cause."""
        with self._lock:
            for counted in (key, ("clicked", key), hash((key, prompts))):
                self._deaths.pop(counted, None)

    def is_suspect(self, key: str) -> bool:
        """Whether an image was in work at a death and has not been answered since."""
        with self._lock:
            return key in self._deaths or ("clicked", key) in self._deaths

    def refusal(self, key: str, prompts: Prompts | None = None) -> ImageRefused | None:
        """Why an image, or these prompts on it, may not be tried now; None if they may."""
        limits: list[tuple[object, int, str]] = [(key, DEATHS, ""), (("clicked", key), CLICKED_DEATHS, "clicks on ")]
        if prompts is not None:
            limits.insert(0, (hash((key, prompts)), DEATHS, "these clicks on "))
        with self._lock:
            for counted, most, words in limits:
                deaths, at = self._deaths.get(counted, (0, 0.0))
                if deaths >= most:
                    minutes = (REFUSED_SECONDS - (self._clock() - at)) / 60
                    verb = "are" if words else "is"
                    return ImageRefused(
                        f"{words}this image brought the model's process down {deaths} times and {verb} refused for "
                        f"{minutes:.0f} minutes: see the log, and try {'other clicks' if words else 'a smaller copy'}"
                    )
        return None
