"""Step 6: the threshold λ of each prompt (Sec. 3.4, Eq. 8 and 9), all candidates scored in one pass."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.flood_fill import LEVELS

PRIOR = 0.4
"""A segment of this share of the image or more is never chosen (Sec. 3.4)."""


@dataclass(frozen=True)
class Scores:
    """Which of the four factors of Eq. 9 are used; all of them in the paper's method (its Table 2 drops them)."""

    prior: bool = True
    edge: bool = True
    pos: bool = True
    neg: bool = True


@dataclass(frozen=True)
class Profile:
    """What every threshold's segment {M' ≤ λ} looks like, λ in levels; independent of the other prompts.

    Attributes:
        area: Share of the image inside, float32 [65536], rising to 1.
        edge: Mean Sobel gradient magnitude of M' over the boundary pixels, float32 [65536], in levels per pixel;
            0 where there is no boundary.
    """

    area: NDArray[np.float32]
    edge: NDArray[np.float32]


def profile(levels: NDArray[np.uint16]) -> Profile:
    """Score all 65536 thresholds from cumulative histograms (METHOD: Eq. 9).

    A pixel is inside for λ ≥ M'[p] and on the boundary for M'[p] ≤ λ < the largest of its 4 neighbors, so each pixel
    adds to two bins and sums over boundaries are running sums. The Sobel gradient replicates the image's border.

    Args:
        levels: M', uint16 [H, W].
    """
    inside, boundary, gradient = _histograms(levels)
    count = np.cumsum(boundary)
    edge = np.divide(np.cumsum(gradient), count, out=np.zeros(LEVELS), where=count > 0)
    return Profile((np.cumsum(inside) / levels.size).astype(np.float32), edge.astype(np.float32))


def choose_threshold(
    own: Profile,
    same: Sequence[int],
    other: Sequence[int],
    *,
    scores: Scores,
    prior: float = PRIOR,
    least_area: float = 0.0,
) -> int:
    """λ_i = argmax s_i(λ) (Eq. 8): the smallest of the best thresholds, from 0 to 65535.

    Where every threshold scores 0 (a point of the other label on the same plateau, a constant map), the largest
    threshold is taken that keeps the other label's points out and the segment below the prior; 0, which is the
    prompt's own plateau, where there is none.

    Args:
        own: Profile of prompt i.
        same: M'_i, in levels, at the points of the same label, its own (0) included.
        other: M'_i, in levels, at the points of the other label.
        scores: Factors to use.
        prior: Share of the image at which the prior turns 0.
        least_area: Segments of a smaller share of the image are no candidates, unless there are no others.
    """
    stop = min(other, default=LEVELS) if scores.neg else LEVELS  # s_neg: λ must stay below the other label
    if scores.prior:
        stop = min(stop, int(np.searchsorted(own.area, prior)))  # area < prior
    start = max(1, int(np.searchsorted(own.area, least_area)))
    if start >= stop:
        start = 1
    ascending = sorted(same)
    stops = sorted({level for level in ascending if level < stop} | {stop}) if scores.pos else [0, stop]
    best, best_score = 0, 0.0
    for low, high in pairwise(stops):
        low = max(low, start)
        if high <= low:
            continue
        share = bisect_right(ascending, low) / len(ascending) if scores.pos else 1.0
        index = int(own.edge[low:high].argmax()) if scores.edge else 0
        score = share * float(own.edge[low + index] if scores.edge else 1.0)
        if score > best_score:
            best, best_score = low + index, score
    return best or max(0, min(stop, min(other, default=1)) - 1)


@njit(cache=True, nogil=True)
def _histograms(levels):
    height, width = levels.shape
    inside = np.zeros(LEVELS, np.int64)
    boundary = np.zeros(LEVELS, np.int64)
    gradient = np.zeros(LEVELS, np.float64)
    for y in range(height):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            own = levels[y, x]
            inside[own] += 1
            highest = max(max(levels[up, x], levels[down, x]), max(levels[y, left], levels[y, right]))
            if highest > own:
                nw, ne = np.float32(levels[up, left]), np.float32(levels[up, right])
                sw, se = np.float32(levels[down, left]), np.float32(levels[down, right])
                gx = ne - nw + se - sw + 2 * (np.float32(levels[y, right]) - np.float32(levels[y, left]))
                gy = sw - nw + se - ne + 2 * (np.float32(levels[down, x]) - np.float32(levels[up, x]))
                magnitude = np.sqrt(gx * gx + gy * gy)
                boundary[own] += 1
                boundary[highest] -= 1
                gradient[own] += magnitude
                gradient[highest] -= magnitude
    return inside, boundary, gradient
