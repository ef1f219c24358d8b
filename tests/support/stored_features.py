"""Features as a model would make them, and claims on them without a cluster."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch

from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.cluster.board import Board
from m2n2_backend.worker.store.features import FeatureStore
from m2n2_backend.worker.store.files import FolderFiles

LIMIT = 10**8


def encoded(seed: int = 0, cells: int = 6) -> EncodedImage:
    generator = torch.Generator().manual_seed(seed)
    blocks = tuple(
        AttentionBlock(
            torch.randn(2, cells * cells, 4, generator=generator).half(),
            torch.randn(2, cells * cells, 4, generator=generator).half(),
            0.5,
            weight,
            torch.randn(2, 3, 4, generator=generator).half() if weight == 0.75 else None,
        )
        for weight in (0.25, 0.75)
    )
    guide = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return EncodedImage((300, 400), AttentionFeatures(blocks, cells, cells), guide)


def same(one: EncodedImage, other: EncodedImage) -> bool:
    blocks = zip(one.features.blocks, other.features.blocks, strict=True)
    return (
        (one.size, one.features.height, one.features.width)
        == (other.size, other.features.height, other.features.width)
        and np.array_equal(one.guide, other.guide)
        and all(
            torch.equal(a.queries, b.queries)
            and torch.equal(a.keys, b.keys)
            and (a.special is None) == (b.special is None)
            and (a.special is None or torch.equal(a.special, b.special))
            and (a.scale, a.weight) == (b.scale, b.weight)
            for a, b in blocks
        )
    )


class SharedBoard:
    """A board of a cluster in this process. Its clock stands still, so that no claim ends by its age."""

    def __init__(self) -> None:
        self.board, self.lock = Board(lambda: 0.0), threading.Lock()
        self.refused = threading.Event()

    def is_claimed(self, key: str) -> bool:
        with self.lock:
            return key in self.board._claims

    def claims(self, actor: str) -> ClaimsOfOne:
        return ClaimsOfOne(self, actor)


class ClaimsOfOne:
    """One replica's claims."""

    def __init__(self, shared: SharedBoard, actor: str) -> None:
        self._shared, self._actor = shared, actor

    def take(self, key: str) -> bool:
        with self._shared.lock:
            taken = self._shared.board.take(key, self._actor)
        if not taken:
            self._shared.refused.set()
        return taken

    def release(self, key: str) -> None:
        with self._shared.lock:
            self._shared.board.release(key, self._actor)

    def close(self) -> None:
        with self._shared.lock:
            self._shared.board.remove(self._actor)


def cache_in(folder: Path, fingerprint: str = "model 1", limit: int = LIMIT) -> FeatureStore:
    """The cache of one machine."""
    return FeatureStore(FolderFiles(folder), fingerprint, limit)
