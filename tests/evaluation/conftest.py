"""A small data set on disk, and one thread for tests whose images are small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_data_set import one_thread, write_data


@pytest.fixture
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def data(tmp_path: Path, single_thread: None) -> Path:
    return write_data(tmp_path / "data")
