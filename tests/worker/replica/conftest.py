from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replica_rig import TIMEOUT, Make, Rig

from m2n2_backend.worker.store.features import FeatureStore


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        rigs.append(Rig(tmp_path, **settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.backbone.gate.set()
        rig.replica.close()


@pytest.fixture
def may_write(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written to the store until the test sets this."""
    gate, write = threading.Event(), FeatureStore.put
    monkeypatch.setattr(FeatureStore, "put", lambda *arguments: gate.wait(TIMEOUT) and write(*arguments))
    return gate
