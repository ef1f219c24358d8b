"""Steps on the distance after the paper's last one: specks, full size, stability score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.rasters import Window, widened, window_around

_MARGIN = 1.1  # of the stability score
_FAR = 2.0  # as far above 1 as 0 is below, so that an edge between both extremes falls halfway


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
    return np.asarray(small[labels])


def resize_distance(distance: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Distance at full size: interpolating it, not the mask, keeps edges smooth.

    Args:
        distance: float32 [h, w]; object where ≤ 1.

    Returns:
        float32 [H, W]; ``distance`` itself where the size is the same.
    """
    if distance.shape == (height, width):
        return distance
    near = np.minimum(distance, _FAR)
    return np.asarray(cv2.resize(near, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def stability(distance: NDArray[np.float32]) -> float:
    """Area of {distance ≤ 1/1.1} over that of {distance ≤ 1.1}, in [0, 1]."""
    wide = int(np.count_nonzero(distance <= _MARGIN))
    return float(np.count_nonzero(distance <= 1.0 / _MARGIN)) / wide if wide else 0.0
