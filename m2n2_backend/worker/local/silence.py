"""How long a worker process has said nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

SILENT_SECONDS = 5.0
"""A worker that has said nothing for this long cannot take work: it sends its figures every second."""


class Silence:
    """The time since a process said something, and whether that is too long. Threads share it."""

    def __init__(self, device: str, awake: Callable[[], float]) -> None:
        """Begin with a silence of 0; ``awake`` measures it in seconds, and messages name ``device``."""
        self._device = device
        self._awake = awake
        self._lock = threading.Lock()
        self._heard_at = awake()
        self._is_too_long = False

    @property
    def seconds(self) -> float:
        """Seconds since the process said something."""
        return max(0.0, self._awake() - self._heard_at)

    def end(self) -> bool:
        """Note that the process said something; whether its silence had been too long."""
        with self._lock:
            self._heard_at = self._awake()
            was_too_long, self._is_too_long = self._is_too_long, False
        return was_too_long

    def is_too_long(self) -> bool:
        """Whether the process has said nothing for too long.

        Time enters this state, here alone; ``end`` leaves it, and its caller hands on what has waited meanwhile.
        """
        with self._lock:
            seconds = self.seconds
            began = not self._is_too_long and seconds > SILENT_SECONDS
            self._is_too_long = self._is_too_long or began
        if began:
            logger.warning("the model worker on %s has been silent for %.0f s", self._device, seconds)
        return self._is_too_long
