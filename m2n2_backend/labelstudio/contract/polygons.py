"""A mask → the outlines of its parts, holes cut in by a bridge."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.rasters import window_around

TOLERANCE = 0.5
"""Largest distance in pixels between a simplified outline and the mask's border."""

LEAST_HOLE = 16
"""Holes of fewer square pixels are filled: they are specks of the threshold, and each one costs a bridge."""

MOST_HOLES = 100
"""Largest holes of a part that are cut out."""

LEAST_PART = 16
"""Parts of fewer square pixels do not become a region that the editor shows, unless they were clicked."""

MOST_PARTS = 200
"""Largest parts that are kept; Label Studio's editor slows down with every region."""


def bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask, bool [H, W] and not empty, in pixels; right and bottom are exclusive."""
    window = window_around(mask)
    assert window is not None, "the mask is not empty"
    down, across = window
    return across.start, down.start, across.stop, down.stop


def outlines(
    mask: NDArray[np.bool_],
    *,
    tolerance: float = TOLERANCE,
    least_part: float = 0.0,
    kept: Sequence[tuple[int, int]] = (),
) -> list[NDArray[np.float64]]:
    """Trace a mask along the edges of its pixels.

    Parts that touch at a corner count as one. A polygon has no holes in Label Studio, so each hole is joined
    to its outline by a bridge of no width, which the ring passes in both directions.

    Args:
        mask: bool [H, W].
        tolerance: Largest distance, in pixels, between the simplified and the exact outline.
        least_part: Smaller parts, in square pixels, are left out; the largest part never is.
        kept: Pixels (x, y) whose parts are traced however small they are.

    Returns:
        One closed ring [n, 2] per part, n ≥ 3, the largest part first; (x, y) in pixels, where (0, 0) is the
        image's top-left corner and (W, H) its bottom-right one. Empty where the mask is.
    """
    if not mask.any():
        return []
    left, top, right, bottom = bounds(mask)
    lattice = _lattice(mask[top:bottom, left:right])
    contours, hierarchy = cv2.findContours(lattice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = hierarchy[0, :, 3]
    # Areas on the lattice are four times those in pixels.
    areas = [cv2.contourArea(contour) / 4 for contour in contours]
    outer = sorted(np.flatnonzero(parents < 0).tolist(), key=areas.__getitem__, reverse=True)
    named = [index for index in outer if _holds_any(contours[index], kept, (left, top))]
    large = [index for index in outer if areas[index] >= least_part] or outer[:1]
    wanted = {*large[:MOST_PARTS], *named}
    holes: dict[int, list[int]] = {index: [] for index in outer if index in wanted}
    for index, parent in enumerate(parents):
        if areas[index] >= LEAST_HOLE and int(parent) in holes:
            holes[int(parent)].append(index)
    rings = []
    for index, inside in holes.items():
        inside.sort(key=areas.__getitem__, reverse=True)
        largest = [_simplified(contours[hole], tolerance) for hole in inside[:MOST_HOLES]]
        rings.append(_with_holes(_simplified(contours[index], tolerance), largest))
    return [ring / 2.0 + (left, top) for ring in rings]


def area_of(ring: NDArray[np.float64]) -> float:
    """Area inside of a ring [n, 2], which runs around its holes in the other direction."""
    x, y = ring.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2.0)


def joined(rings: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One ring [n, 2] around one or several rings [m, 2] that do not overlap, joined by bridges of no width."""
    return _with_holes(rings[0], rings[1:])


def _holds_any(contour: NDArray[np.int32], pixels: Sequence[tuple[int, int]], corner: tuple[int, int]) -> bool:
    """Whether a contour on the lattice, whose corner is that pixel, encloses one of the pixels (x, y)."""
    points = [(2.0 * (x - corner[0]) + 1.0, 2.0 * (y - corner[1]) + 1.0) for x, y in pixels]
    return any(cv2.pointPolygonTest(contour, point, measureDist=False) > 0 for point in points)


def _lattice(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The mask on a grid [2H+1, 2W+1] whose even points are pixel corners.

    OpenCV's contours run through the centers of border pixels, half a pixel inside of the mask. On this grid
    the border points are the pixels' corners themselves.
    """
    height, width = mask.shape
    lattice = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    lattice[1::2, 1::2] = mask
    return np.asarray(cv2.dilate(lattice, np.ones((3, 3), np.uint8)), np.uint8)


def _simplified(contour: NDArray[np.int32], tolerance: float) -> NDArray[np.float64]:
    """A contour [n, 1, 2] with fewer points [m, 2], m ≥ 3."""
    # The lattice is twice as fine as the pixels the tolerance is given in.
    fewer = cv2.approxPolyDP(contour, 2.0 * tolerance, closed=True)
    return np.asarray(fewer if len(fewer) >= 3 else contour, np.float64).reshape(-1, 2)


def _with_holes(ring: NDArray[np.float64], holes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """A ring that also runs around its holes, or other parts, each joined to it by a bridge.

    OpenCV runs around holes against the direction of their outline, as both the even-odd and the nonzero rule need.
    """
    # From left to right, from each hole's leftmost point: nearest is the outline or a hole already joined.
    for hole in sorted(holes, key=lambda points: float(points[:, 0].min())):
        around = np.roll(hole, -int(hole[:, 0].argmin()), axis=0)
        nearest = int(((ring - around[0]) ** 2).sum(axis=1).argmin())
        ring = np.concatenate([ring[: nearest + 1], around, around[:1], ring[nearest:]])
    return ring
