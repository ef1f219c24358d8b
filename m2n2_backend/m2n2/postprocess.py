"""Steps on the distance after the paper's last one: specks, full size, stability score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.rasters import widened, window_around

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
    least = share * distance.size
    tight = window_around(distance <= 1.0)
    if tight is None:
        return
    # All islands and holes are in this window, and the surroundings of the object have at least this area: the margin
    # is as wide, or reaches the image's border.
    window = widened(tight, 1 + least / min(side.stop - side.start for side in tight))
    near, prompted = distance[window], np.zeros(distance.shape, np.bool_)
    for point in points:
        prompted[point] = True
    prompted = prompted[window]
    _drop(near, near <= 1.0, 4, least, prompted, 1.0 + 1e-3, keep_largest=True)
    _drop(near, near > 1.0, 8, least, prompted, 1.0, keep_largest=False)


def _drop(
    distance: NDArray[np.float32],
    mask: NDArray[np.bool_],
    connectivity: int,
    least: float,
    prompted: NDArray[np.bool_],
    value: float,
    *,
    keep_largest: bool,
) -> None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    area = stats[:, cv2.CC_STAT_AREA]
    small = area < least
    small[0] = False
    small[labels[prompted]] = False
    if keep_largest and count > 1:
        small[1 + int(area[1:].argmax())] = False
    if small.any():
        distance[small[labels]] = value


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
