"""What happens to the distance after the paper's last step: specks, full size, stability score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_MARGIN = 1.1  # of the stability score
_FAR = 2.0  # as far above 1 as 0 is below, so that an edge between both extremes falls halfway


def smooth_specks(distance: NDArray[np.float32], share: float, points: Sequence[tuple[Any, Any]]) -> None:
    """Remove, in place, small islands and pinholes of the object {distance ≤ 1}.

    Islands are 4-connected as the flood is, holes 8-connected. One that holds a prompt stays, and so does the largest
    island: a click never answers with nothing.

    Args:
        distance: float32 [H, W].
        share: Of the image's area; smaller components go.
        points: (row, col) of all prompts, of a scribble two arrays.
    """
    least = share * distance.size
    _drop(distance, distance <= 1.0, 4, least, points, 1.0 + 1e-3, keep_largest=True)
    _drop(distance, distance > 1.0, 8, least, points, 1.0, keep_largest=False)


def _drop(
    distance: NDArray[np.float32],
    mask: NDArray[np.bool_],
    connectivity: int,
    least: float,
    points: Sequence[tuple[Any, Any]],
    value: float,
    *,
    keep_largest: bool,
) -> None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    area = stats[:, cv2.CC_STAT_AREA]
    small = area < least
    small[0] = False
    for point in points:
        small[labels[point]] = False
    if keep_largest and count > 1:
        small[1 + int(area[1:].argmax())] = False
    if small.any():
        distance[small[labels]] = value


def resize_distance(distance: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Distance at full size: interpolating it, not the mask, keeps edges smooth.

    Args:
        distance: float32 [h, w]; object where ≤ 1.
        height: H.
        width: W.

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
