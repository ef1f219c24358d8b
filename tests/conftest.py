"""Fixtures that tests of several folders share.

``studio`` and ``elsewhere`` are servers that answer as Label Studio does, ``pool``, ``media`` and ``client`` the app
with a model that draws discs, ``served`` the app behind its real listener, ``now`` lets time pass, and ``prey`` is a
backend that hostile addresses are sent to. What is imported inside of a fixture needs all of the app.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from fake_label_studio import FakeLabelStudio
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from fetch_trap import Prey
    from flask.testing import FlaskClient
    from label_studio_fakes import CountingMedia, DiscPool
    from listening import Web

# Deadlines would fail on a busy machine; in CI, Hypothesis' own profile draws the same examples each time.
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
    """Lets ``time.monotonic`` go on by a number of seconds."""
    ahead, real = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead[0])
    return lambda seconds: ahead.__setitem__(0, ahead[0] + seconds)


@pytest.fixture
def pool() -> DiscPool:
    from label_studio_fakes import DiscPool

    return DiscPool()


@pytest.fixture
def media() -> CountingMedia:
    from label_studio_fakes import CountingMedia

    return CountingMedia()


@pytest.fixture
def client(pool: DiscPool, media: CountingMedia) -> FlaskClient:
    from label_studio_fakes import settings

    from m2n2_backend.server.app import create_app

    return create_app(settings(), pool, media).test_client()


@pytest.fixture
def served() -> Iterator[Web]:
    from listening import web

    with web() as served:
        yield served


@pytest.fixture(scope="module")
def prey() -> Iterator[Prey]:
    from fetch_trap import trapped

    with trapped() as prey:
        yield prey
