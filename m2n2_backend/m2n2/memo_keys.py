"""Short keys for what is kept of prompts: a polygon or a scribble may be megabytes long, and its key must not be."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np

from m2n2_backend.m2n2.places import Place, Stroke
from m2n2_backend.prompts import Box, Region


def place_key(place: Place) -> bytes:
    """The key of a click or scribble, 32 bytes."""
    if isinstance(place, Stroke):
        return _hash(b"stroke", place.digest)
    return _hash(b"point", struct.pack("<2q", *place))


def start_key(start: Sequence[tuple[int, float]]) -> bytes:
    """The key of the cells in which a chain starts and of their weights, 32 bytes."""
    return _hash(b"start", np.array(start, np.float64).tobytes())


def prefix_keys(regions: Sequence[Region], places: Sequence[Place], labels: Sequence[bool]) -> list[bytes]:
    """The keys of the regions alone, with the first click, with the first two and so on; 32 bytes each.

    Each is made from the one before it, so that all of them together cost one look at each prompt.

    Args:
        regions: Boxes and polygons.
        places: Where clicks and scribbles are, in their order.
        labels: True for foreground, one for each place.
    """
    keys = [_hash(b"regions", *map(_region_key, regions))]
    for place, label in zip(places, labels, strict=True):
        keys.append(_hash(b"foreground" if label else b"background", keys[-1], place_key(place)))
    return keys


def _region_key(region: Region) -> bytes:
    if isinstance(region, Box):
        return _hash(b"box", struct.pack("<4q", region.x0, region.y0, region.x1, region.y1))
    # Adding 0 makes 0.0 of -0.0, which is the same corner.
    return _hash(b"polygon", (np.array(region.points, np.float64) + 0.0).tobytes())


def _hash(kind: bytes, *parts: bytes) -> bytes:
    """SHA-256 of the parts, of which only a single one may be of any length; of two kinds never the same."""
    return hashlib.sha256(b"".join((kind, b" ", *parts))).digest()
