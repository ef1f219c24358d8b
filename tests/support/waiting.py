"""Waiting for what another thread or process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable

LAST_RESORT_SECONDS = 300
"""For a broken build, not for a slow machine."""


def soon() -> float:
    """A deadline that nothing which works ever meets."""
    return time.monotonic() + LAST_RESORT_SECONDS


def until(condition: Callable[[], object]) -> None:
    end = soon()
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
