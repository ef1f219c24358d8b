"""Steps on the distance after the paper's last one: specks, full size, stability score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.rasters import Window, widened, window_around

_MARGIN = 1.1  # of the stability score
_FAR = 2.0  # as far above 1 as 0 is below, so that an edge between both extremes falls halfway
_LEAST = 0.05  # pixels that a pixel's center is away from the smoothed edge
_SMOOTHED = 8  # pixels beyond which the smoothed distance of a mask is ``_FAR``, with a margin for the blur
_BLOCK = 2**20  # pixels at full size that are interpolated at a time


def smooth_specks(distance: NDArray[np.float32], share: float, points: Sequence[tuple[Any, Any]]) -> None:
    """Remove, in place, small islands and pinholes of the object {distance ≤ 1}.

    Islands are 4-connected as the flood is, holes 8-connected. A component that holds a prompt stays, and so does the
    largest island: a click always selects something.

    Args:
        distance: float32 [H, W].
        share: Share of the image's area below which a component is removed.
        points: (row, col) of all prompts; a scribble has two arrays.
    """
    kept: NDArray[np.bool_] = np.zeros(distance.shape, np.bool_)
    for point in points:
        kept[point] = True
    near = _around(distance <= 1.0, share)
    if near is None:
        return
    part, prompted = distance[near], kept[near]
    part[_small(part <= 1.0, 4, share * distance.size, prompted, keep_largest=True)] = 1.0 + 1e-3
    part[_small(part > 1.0, 8, share * distance.size, prompted, keep_largest=False)] = 1.0


def without_specks(mask: NDArray[np.bool_], share: float, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without small islands and pinholes, by the rules of :func:`smooth_specks`.

    Args:
        mask: bool [H, W].
        share: Share of the image's area below which a component is removed.
        kept: A component with one of these pixels stays, bool [H, W].

    Returns:
        bool [H, W]; ``mask`` itself if it is empty or the share is 0.
    """
    near = _around(mask, share)
    if near is None:
        return mask
    out = mask.copy()
    part = out[near]
    part &= ~_small(part, 4, share * mask.size, kept[near], keep_largest=True)
    part |= _small(~part, 8, share * mask.size, kept[near], keep_largest=False)
    return out


def _around(mask: NDArray[np.bool_], share: float) -> Window | None:
    """The part of the image in which all islands and holes lie; None if there are no islands or specks.

    The surroundings of the object have at least the area of a speck there: the margin is as wide, or reaches the
    image's border.
    """
    tight = window_around(mask)
    if tight is None or share <= 0:
        return None
    return widened(tight, 1 + share * mask.size / min(side.stop - side.start for side in tight))


def _small(
    mask: NDArray[np.bool_],
    connectivity: int,
    least: float,
    prompted: NDArray[np.bool_],
    *,
    keep_largest: bool,
) -> NDArray[np.bool_]:
    """The components of fewer than ``least`` pixels that hold no prompt, bool [h, w]."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    area = stats[:, cv2.CC_STAT_AREA]
    small = area < least
    small[0] = False
    small[labels[prompted]] = False
    if keep_largest and count > 1:
        small[1 + int(area[1:].argmax())] = False
    return np.asarray(small[labels]) if small.any() else np.zeros(mask.shape, np.bool_)


def distance_of(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A distance that is ≤ 1 exactly in the mask and rises smoothly across its edge, so that it can be resized.

    Pixels keep their side; between two of them the edge runs where the smoothed distance has it. A resized circle
    then differs from the true one by half as many pixels as without smoothing.

    Args:
        mask: bool [H, W].

    Returns:
        float32 [H, W] in [0, 2].
    """
    distance = np.full(mask.shape, np.float32(_FAR))
    near = window_around(mask, _SMOOTHED)
    if near is not None:
        distance[near] = _smooth_distance(mask[near])
    return distance


def _smooth_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    inside = cv2.distanceTransform(np.pad(mask.view(np.uint8), 1, mode="edge"), cv2.DIST_L2, 3)[1:-1, 1:-1]
    outside = cv2.distanceTransform(np.pad(1 - mask.view(np.uint8), 1, mode="edge"), cv2.DIST_L2, 3)[1:-1, 1:-1]
    signed = cv2.GaussianBlur(np.where(mask, 0.5 - inside, outside - 0.5), (0, 0), 1.0)
    signed = np.where(mask, np.minimum(signed, -_LEAST), np.maximum(signed, _LEAST))
    return np.clip(1.0 + signed / 2.0, 0.0, _FAR).astype(np.float32)


def object_at(distance: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The object at full size. Interpolating the distance, not the mask, keeps edges smooth.

    The cost follows the box about the object, not the size of the photograph.

    Args:
        distance: float32 [h, w]; object where ≤ 1.
        size: (H, W) of the photograph.

    Returns:
        bool [H, W].
    """
    if distance.shape == size:
        return distance <= 1.0
    mask: NDArray[np.bool_] = np.zeros(size, np.bool_)
    near = window_around(distance <= 1.0, 1)  # an interpolated pixel of the object has one of its pixels beside it
    if near is None:
        return mask
    rows, cols = (_Between.of(*axis) for axis in zip(near, distance.shape, size, strict=True))
    few = np.minimum(distance[rows.low[0] : rows.high[-1] + 1], _FAR)
    across = few[:, cols.low] * (1 - cols.weight) + few[:, cols.high] * cols.weight
    step = max(1, _BLOCK // cols.low.size)
    for first in range(0, rows.low.size, step):
        part = slice(first, first + step)
        low, between = across[rows.low[part] - rows.low[0]], across[rows.high[part] - rows.low[0]]
        between -= low
        between *= rows.weight[part, np.newaxis]
        between += low
        mask[rows.first + first : rows.first + first + len(low), cols.first : cols.first + cols.low.size] = (
            between <= 1
        )
    return mask


class _Between(NamedTuple):
    """Where the pixels of one axis at full size lie between those of the smaller raster.

    Attributes:
        first: The first of these pixels.
        low: The pixel of the smaller raster before the center of each.
        high: The one after it.
        weight: The share of the latter, float32.
    """

    first: int
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, near: slice, few: int, many: int) -> _Between:
        """The pixels that lie in a part ``near`` of ``few`` pixels, which are enlarged to ``many``."""
        first, end = near.start * many // few, min(many, -(-near.stop * many // few))
        at = ((np.arange(first, end) + 0.5) * (few / many) - 0.5).clip(0, few - 1)
        low = at.astype(np.intp)
        return cls(first, low, np.minimum(low + 1, few - 1), (at - low).astype(np.float32))


def stability(distance: NDArray[np.float32]) -> float:
    """Area of {distance ≤ 1/1.1} over that of {distance ≤ 1.1}, in [0, 1]."""
    wide = int(np.count_nonzero(distance <= _MARGIN))
    return float(np.count_nonzero(distance <= 1.0 / _MARGIN)) / wide if wide else 0.0
