"""Fixtures that tests of several folders share.

``studio`` and ``elsewhere`` are servers that answer as Label Studio does, ``now`` lets time pass, and ``prey`` is a
backend that hostile addresses are sent to.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from fake_label_studio import FakeLabelStudio
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from fetch_trap import Prey

# Deadlines would fail on a busy machine; in CI, Hypothesis' own profile draws the same examples each time.
settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_finish() -> None:
    """Let no later ``gc.collect()`` look through the million objects of the libraries that are imported by now."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    studio = FakeLabelStudio()
    yield studio
    studio.close()


@pytest.fixture
def elsewhere() -> Iterator[FakeLabelStudio]:
    """A server that is not the Label Studio of the settings."""
    server = FakeLabelStudio()
    yield server
    server.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets ``time.monotonic`` go on by a number of seconds."""
    ahead, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead[0])
    return lambda seconds: ahead.__setitem__(0, ahead[0] + seconds)


@pytest.fixture(scope="module")
def prey() -> Iterator[Prey]:
    from fetch_trap import trapped  # this imports all of the app, which most tests do not need

    with trapped() as prey:
        yield prey
