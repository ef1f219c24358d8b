"""The objects that the demonstration clicks on, and what happened to each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.prompts import Click
from m2n2_backend.resources import sample_photograph

Mask = NDArray[np.bool_]
"""bool [H, W], the size of the photograph."""

_DRAWN = Path(__file__).parent / "drawn"


@dataclass(frozen=True)
class DrawnObject:
    """One object of a shipped photograph, and the place where a person clicks first."""

    name: str
    photograph: str
    first: Click

    @property
    def path(self) -> Path:
        """The photograph."""
        return sample_photograph().with_name(f"{self.photograph}.jpg")

    @property
    def drawn(self) -> Mask:
        """The object as it was drawn by hand."""
        with Image.open(_DRAWN / f"{self.photograph}_{self.name}.png") as image:
            return np.asarray(image.convert("1"))


SUBJECTS = (
    DrawnObject("helmet", "astronaut", Click(440, 390)),
    DrawnObject("eyes", "cat", Click(170, 112)),
    DrawnObject("drink", "coffee", Click(290, 160)),
)


@dataclass
class Labeled:
    """What happened to one object, click by click.

    Attributes:
        clicks: Those that changed the mask.
        masks: The server's answer to each prefix of the clicks.
        overlaps: IoU of each mask with the drawn one, in [0, 1].
        seconds: From each request to its mask.
    """

    subject: DrawnObject
    clicks: list[Click] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
