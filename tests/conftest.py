"""Servers, and a clock, that tests share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from fake_label_studio import FakeLabelStudio
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from fetch_trap import Prey

# A busy machine is no fault of a test; for CI, Hypothesis' own profile draws the same examples each time.
settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


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
    """Lets time pass."""
    ahead, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead[0])
    return lambda seconds: ahead.__setitem__(0, ahead[0] + seconds)


@pytest.fixture(scope="module")
def prey() -> Iterator[Prey]:
    from fetch_trap import trapped  # with all of the app, which most tests have no need of

    with trapped() as prey:
        yield prey
