"""What a replica says, wherever it runs: plain values that can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.prompts import Prompts
from m2n2_backend.rasters import PackedMask
from m2n2_backend.worker.figures import Figures


@dataclass(frozen=True)
class Done:
    """The result of work that succeeded.

    Attributes:
        mask: The mask; None if nothing was to be segmented.
        score: See :class:`~m2n2_backend.worker.interface.Answer`.
        timings_ms: See :class:`~m2n2_backend.worker.interface.Answer`.
        rle: Label Studio's brush RLE of the mask if it was asked for.
        view: See :class:`~m2n2_backend.worker.interface.Answer`.
    """

    mask: PackedMask | None
    score: float
    timings_ms: Mapping[str, float]
    rle: bytes | None = None
    view: str = ""

    def unpacked(self) -> NDArray[np.bool_]:
        """The mask, bool [H, W]."""
        assert self.mask is not None, "nothing was segmented"
        return self.mask.unpacked()


@dataclass(frozen=True)
class Reply:
    """What became of one piece of work, and the replica's figures after it.

    ``result`` may be the error that the work ended with. Errors travel as values: raised ones would come with the
    traceback of another process.
    """

    result: Done | Exception
    figures: Figures = field(default_factory=Figures)


@dataclass(frozen=True)
class Loading:
    """The model is still being loaded. Sent every second, as far as what is loaded lets another thread run."""


@dataclass(frozen=True)
class Ready:
    """The model is loaded.

    Attributes:
        fingerprint: Identifies what the backbone's features depend on.
        backbone: Name of the backbone in words.
        device: Name of the device in words.
        figures: The first figures; every cache but the one on disk is empty.
    """

    fingerprint: str
    backbone: str
    device: str
    figures: Figures


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded; ``detail`` has cause and cure."""

    detail: str


@dataclass(frozen=True)
class InWork:
    """What is in work from now on: the suspects if this is the last message of a process.

    Attributes:
        images: Hashes of the images that are being read, encoded or prepared.
        clicked: Prompts that are being answered, each with the hash of its image.
    """

    images: frozenset[str] = frozenset()
    clicked: frozenset[tuple[str, Prompts]] = frozenset()
