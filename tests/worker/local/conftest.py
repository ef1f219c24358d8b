from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from stood_in_workers import Make, Rig


@pytest.fixture
def make() -> Iterator[Make]:
    rigs: list[Rig] = []

    def make(*arguments: Any, **options: Any) -> Rig:
        rigs.append(Rig(*arguments, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
