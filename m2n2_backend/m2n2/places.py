"""Clicks and scribbles at working size, and short keys under which their results are kept.

A polygon or a scribble may be megabytes long, and its key must not be.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.prompts import Box, Region

Point: TypeAlias = tuple[int, int]
"""(row, col) of a click."""

Start: TypeAlias = tuple[tuple[int, float], ...]
"""Cells in which a chain starts, with their weights, which sum to 1."""

T = TypeVar("T")


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
        """SHA-256 of the pixels, computed once: every further click looks up the maps of all before it."""
        return hashlib.sha256(self.indices).digest()

    @property
    def index(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Rows and columns."""
        rows, cols = np.frombuffer(self.indices, np.int32).reshape(2, -1)
        return rows, cols

    def within(self, mask: NDArray[np.bool_]) -> Stroke:
        """The part of the stroke that lies in a mask, bool [H, W]."""
        chosen = np.stack(self.index)[:, mask[self.index]]
        return Stroke(chosen.tobytes())


Place: TypeAlias = Point | Stroke


@dataclass(frozen=True)
class Placed:
    """A click or scribble at working size, with its label: True for foreground."""

    place: Place
    positive: bool


def split(values: Sequence[T], prompts: Sequence[Placed], positive: bool) -> tuple[list[T], list[T]]:
    """The values of the prompts with a label, and those of the prompts with the other one.

    Args:
        values: One for each prompt.
    """
    same: list[T] = []
    other: list[T] = []
    for value, prompt in zip(values, prompts, strict=True):
        (same if prompt.positive == positive else other).append(value)
    return same, other


def index_of(place: Place) -> Any:
    """The index with which numpy reads or writes a place's pixels."""
    return place.index if isinstance(place, Stroke) else place


def level_at(levels: NDArray[np.uint16], place: Place) -> int:
    """M' of another prompt at a place, in levels.

    A scribble has the median of its pixels: this still fits what it was drawn for if it crosses the object's edge a
    little, or an older stroke of the other label.
    """
    own = levels[index_of(place)].ravel()
    return int(np.partition(own, (own.size - 1) // 2)[(own.size - 1) // 2])


def place_key(place: Place) -> bytes:
    """The key of a click or scribble, 32 bytes."""
    if isinstance(place, Stroke):
        return _hash(b"stroke", place.digest)
    return _hash(b"point", struct.pack("<2q", *place))


def start_key(start: Start) -> bytes:
    """The key of the cells in which a chain starts and of their weights, 32 bytes."""
    return _hash(b"start", np.array(start, np.float64).tobytes())


def prefix_keys(regions: Sequence[Region], prompts: Sequence[Placed]) -> list[bytes]:
    """The keys of the regions alone, with the first click, with the first two and so on; 32 bytes each.

    Each is made from the one before it, so that every prompt is read only once.
    """
    keys = [_hash(b"regions", *map(_region_key, regions))]
    for prompt in prompts:
        label = b"foreground" if prompt.positive else b"background"
        keys.append(_hash(label, keys[-1], place_key(prompt.place)))
    return keys


def _region_key(region: Region) -> bytes:
    if isinstance(region, Box):
        return _hash(b"box", struct.pack("<4q", region.x0, region.y0, region.x1, region.y1))
    # Adding 0 makes 0.0 of -0.0, which is the same corner.
    return _hash(b"polygon", (np.array(region.points, np.float64) + 0.0).tobytes())


def _hash(kind: bytes, *parts: bytes) -> bytes:
    """SHA-256 of a kind and parts, only one of which may vary in length: different prompts have different keys."""
    return hashlib.sha256(b"".join((kind, b" ", *parts))).digest()
