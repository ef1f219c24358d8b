"""Servers that tests of images and of Label Studio share."""

from __future__ import annotations

from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def prey() -> Iterator[Prey]:
    from fetch_trap import trapped  # with all of the app, which most tests have no need of

    with trapped() as prey:
        yield prey
