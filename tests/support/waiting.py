"""Waiting for what another thread or process does, and clocks that a test sets."""

from __future__ import annotations

import time
from collections.abc import Callable

LAST_RESORT_SECONDS = 300
"""Seconds after which a test gives up: long enough for a slow machine, so only a bug takes that long."""


class Clock:
    """A clock that stands still unless a test sets ``now``, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class RunningClock:
    """The system's monotonic clock, put forward by ``ahead`` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def soon() -> float:
    """A deadline on ``time.monotonic`` that only a bug lets pass."""
    return time.monotonic() + LAST_RESORT_SECONDS


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail at the deadline of :func:`soon`."""
    end = soon()
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)
