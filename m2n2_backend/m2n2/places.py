"""Where clicks and scribbles are at working size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Point: TypeAlias = tuple[int, int]
"""(row, col) of a click."""


@dataclass(frozen=True)
class Stroke:
    """The pixels of a scribble, each once.

    Attributes:
        indices: int32 [2, n], all rows and then all columns, as bytes: equal ones find the same map again.
    """

    indices: bytes

    @staticmethod
    def of(mask: NDArray[np.bool_]) -> Stroke:
        """The pixels of a mask, bool [H, W], at least one."""
        return Stroke(np.stack(np.nonzero(mask)).astype(np.int32).tobytes())

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the pixels, taken once: every further click looks for the maps of all before it."""
        return hashlib.sha256(self.indices).digest()

    @property
    def index(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Rows and columns."""
        rows, cols = np.frombuffer(self.indices, np.int32).reshape(2, -1)
        return rows, cols

    def within(self, mask: NDArray[np.bool_]) -> Stroke:
        """Those of its pixels that lie in a mask, bool [H, W]."""
        chosen = np.stack(self.index)[:, mask[self.index]]
        return Stroke(chosen.tobytes())


Place: TypeAlias = Point | Stroke


def index_of(place: Place) -> Any:
    """What numpy takes to read or write a place's pixels."""
    return place.index if isinstance(place, Stroke) else place


def level_at(levels: NDArray[np.uint16], place: Place) -> int:
    """M' of another prompt at a place, in levels.

    Of a scribble the median: it still says what it was drawn for where it crosses the object's edge a little, or an
    older stroke of the other label.
    """
    own = levels[index_of(place)].ravel()
    return int(np.partition(own, (own.size - 1) // 2)[(own.size - 1) // 2])
