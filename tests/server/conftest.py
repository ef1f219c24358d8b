"""The app with a model that draws discs and one picture for every address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from label_studio_fakes import CountingMedia, DiscPool, settings
from listening import Web, web

from m2n2_backend.server.app import create_app


@pytest.fixture
def pool() -> DiscPool:
    return DiscPool()


@pytest.fixture
def media() -> CountingMedia:
    return CountingMedia()


@pytest.fixture
def client(pool: DiscPool, media: CountingMedia) -> FlaskClient:
    return create_app(settings(), pool, media).test_client()


@pytest.fixture
def served() -> Iterator[Web]:
    with web() as served:
        yield served
