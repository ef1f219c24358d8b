"""What a replica says, wherever it runs: plain values that can be sent to another process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.worker.interface import Tier


@dataclass(frozen=True)
class Done:
    """Work was done.

    Attributes:
        mask: Bits of the mask, eight to a byte, uint8 [ceil(H·W / 8)]; None where nothing was to be segmented.
        shape: (H, W).
        score: Of the mask.
        timings_ms: Of the parts that ran; see :class:`~m2n2_backend.worker.interface.Answer`.
        rle: Label Studio's brush RLE of the mask where it was asked for.
    """

    mask: NDArray[np.uint8] | None
    shape: tuple[int, int]
    score: float
    timings_ms: Mapping[str, float]
    rle: bytes | None = None

    def unpacked(self) -> NDArray[np.bool_]:
        """The mask, bool [H, W]."""
        assert self.mask is not None, "nothing was segmented"
        height, width = self.shape
        return np.unpackbits(self.mask, count=height * width).view(np.bool_).reshape(height, width)


@dataclass(frozen=True)
class Figures:
    """What a replica counts, at one moment.

    Attributes:
        waiting: Requests in its queue.
        superseded: Requests answered with a newer request's mask.
        refused: Requests that found the queue full.
        encoded: Times the model ran.
        encode_seconds: Of the latest time, or of the warm-up before.
        age: Seconds for which the longest of the steps in work has been running; 0 where there is none.
        hang_seconds: A step that takes longer than this has hung.
        rss: Resident memory of the process in bytes; 0 where the system does not tell.
        tiers: Of the caches.
    """

    waiting: int = 0
    superseded: int = 0
    refused: int = 0
    encoded: int = 0
    encode_seconds: float = 0.0
    age: float = 0.0
    hang_seconds: float = math.inf
    rss: int = 0
    tiers: Mapping[str, Tier] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What became of one piece of work, and the replica's figures after it.

    Attributes:
        result: ``Done``, or the error it ended with. Errors travel as values: raised ones would come with the
            traceback of another process.
        figures: Of the moment.
    """

    result: Done | Exception
    figures: Figures


@dataclass(frozen=True)
class Loading:
    """The model is still being loaded. Said every second, as far as what is loaded lets another thread run."""


@dataclass(frozen=True)
class Ready:
    """The model is loaded.

    Attributes:
        fingerprint: Of the backbone.
        backbone: In words.
        device: In words.
        figures: Of the empty caches, but for the disk's.
    """

    fingerprint: str
    backbone: str
    device: str
    figures: Figures


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded: cause and cure."""

    detail: str


@dataclass(frozen=True)
class InWork:
    """The images in work from now on: the suspects if this is the last that is heard of a process.

    Attributes:
        keys: Hashes of all of them.
        clicked: Those that were ready, and whose prompts are being answered: the prompts may be the cause, too.
    """

    keys: frozenset[str]
    clicked: frozenset[str] = frozenset()
