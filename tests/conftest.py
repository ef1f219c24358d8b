"""Servers that tests of images and of Label Studio share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from fake_label_studio import FakeLabelStudio

if TYPE_CHECKING:
    from fetch_trap import Prey


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
