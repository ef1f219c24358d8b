"""No click changes more than the error it points at (beyond the paper).

People, and the benchmark's simulated user, click the middle of an error. So the largest circle around a click
that meets no pixel which already has the click's label tells how large the error is. A click whose answer by the
paper's rule would change far more than that circle redraws the object because of a detail; it edits instead.

A click that agrees with the mask says that this place is right: the mask stays, the pixel is fixed from then on.

The radius of a scribble is that of its pixel which is furthest from all that has the label already, and the scribble
is about everything within this radius of those of its pixels that do not agree with the mask yet. It agrees if all of
them do. Only its own pixels are fixed: a stroke already shows how wide it is meant to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.flood_fill import LEVELS
from m2n2_backend.m2n2.paper.threshold import Profile
from m2n2_backend.m2n2.places import Place, Stroke

DISC = 0.7
"""Share of the circle's radius within which the pixels are taken to have the click's label."""


def click_radius(mask: NDArray[np.bool_], place: Place, positive: bool) -> float:
    """Distance from a click to the nearest pixel that has its label already, or to the image's border.

    Args:
        mask: The mask that the user saw, bool [H, W].
        place: The click; a scribble has the largest distance of its pixels.

    Returns:
        The distance in pixels; 0 if the click agrees with the mask.
    """
    if isinstance(place, Stroke):
        wrong = np.pad(mask != positive, 1).view(np.uint8)
        distance = cv2.distanceTransform(wrong, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        return float(distance[place.index].max())
    row, col = place
    border = min(row + 1, col + 1, mask.shape[0] - row, mask.shape[1] - col)
    return float(np.sqrt(_nearest(mask, row, col, positive, border * border)))


@njit(cache=True, nogil=True)
def _nearest(mask, row, col, label, least):
    """The smaller of ``least`` and the squared distance to the nearest pixel with the label."""
    for y in range(mask.shape[0]):
        down = (y - row) * (y - row)
        if down >= least:
            continue
        for x in range(mask.shape[1]):
            if mask[y, x] == label:
                least = min(least, down + (x - col) * (x - col))
    return least


def area_about(mask: NDArray[np.bool_], place: Place, positive: bool, radius: float) -> float:
    """Pixels within ``radius`` of a click, or of those pixels of a scribble that do not agree with the mask."""
    if isinstance(place, Stroke):
        return float(disc(mask.shape, place.within(mask != positive), radius)[0].size)
    return math.pi * radius**2


def sure_radius(place: Place, radius: float) -> float:
    """How far around a click of this radius the pixels are taken to have its label."""
    return 0.0 if isinstance(place, Stroke) else DISC * radius


def disc(shape: tuple[int, ...], place: Place, radius: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pixels no further than ``radius`` from a place; always the place itself."""
    if isinstance(place, Stroke):
        apart = np.ones(shape, np.uint8)
        apart[place.index] = 0
        rows, cols = np.nonzero(cv2.distanceTransform(apart, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= radius)
        return rows, cols
    row, col = place
    reach = int(radius)
    rows = np.arange(max(0, row - reach), min(shape[0], row + reach + 1))
    cols = np.arange(max(0, col - reach), min(shape[1], col + reach + 1))
    inside = (rows[:, None] - row) ** 2 + (cols[None, :] - col) ** 2 <= radius * radius
    down, across = np.nonzero(inside)
    return rows[down], cols[across]


def edit(
    mask: NDArray[np.bool_],
    levels: NDArray[np.uint16],
    profile: Profile,
    *,
    positive: bool,
    other: Sequence[int],
    most: float,
) -> NDArray[np.bool_]:
    """Add the click's own segment of the best edge to the mask, or remove it.

    Args:
        mask: Before the click, bool [H, W].
        levels: M' of the click, uint16 [H, W].
        profile: Scores of the click's thresholds.
        positive: Whether the segment is added.
        other: M', in levels, at the clicks of the other label: they stay out of the segment.
        most: Pixels that may change.

    Returns:
        A new bool [H, W].
    """
    changes = np.cumsum(np.bincount(levels[mask != positive], minlength=LEVELS))
    stop = max(2, min(int(np.searchsorted(changes, most, side="right")), min(other, default=LEVELS)))
    segment = levels <= 1 + int(profile.edge[1:stop].argmax())
    return mask | segment if positive else mask & ~segment
