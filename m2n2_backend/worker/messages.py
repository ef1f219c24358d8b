"""What the web process and a worker process say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.prompts import Prompts
from m2n2_backend.worker.pool import SourceImage, Tier


@dataclass(frozen=True)
class Ready:
    """The model is loaded.

    Attributes:
        fingerprint: Of the backbone.
        backbone: In words.
        device: In words.
        devices: Names of all devices of this kind.
        tiers: Of the empty caches, but for the disk's.
    """

    fingerprint: str
    backbone: str
    device: str
    devices: tuple[str, ...]
    tiers: Mapping[str, Tier]


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded: cause and cure."""

    detail: str


@dataclass(frozen=True)
class Work:
    """An image to segment, or to encode only, where there are no prompts."""

    image: SourceImage
    prompts: Prompts | None


@dataclass(frozen=True)
class Done:
    """Work was done.

    Attributes:
        mask: Bits of the mask, eight to a byte, uint8 [ceil(H·W / 8)]; None where nothing was to be segmented.
        shape: (H, W).
        score: Of the mask.
        timings_ms: Of the parts that ran.
    """

    mask: NDArray[np.uint8] | None
    shape: tuple[int, int]
    score: float
    timings_ms: Mapping[str, float]

    @staticmethod
    def of(mask: NDArray[np.bool_], score: float, timings_ms: Mapping[str, float]) -> Done:
        """A mask as it is sent."""
        return Done(np.packbits(mask), (mask.shape[0], mask.shape[1]), score, timings_ms)

    def unpacked(self) -> NDArray[np.bool_]:
        """The mask, bool [H, W]."""
        assert self.mask is not None, "nothing was segmented"
        height, width = self.shape
        return np.unpackbits(self.mask, count=height * width).view(np.bool_).reshape(height, width)


@dataclass(frozen=True)
class Reply:
    """What became of one piece of work, and the worker's figures after it.

    Attributes:
        result: ``Done``, or the error it ended with.
        tiers: Of the caches.
        rss: Resident memory of the process in bytes; 0 where the system does not tell.
    """

    result: Done | Exception
    tiers: Mapping[str, Tier]
    rss: int
