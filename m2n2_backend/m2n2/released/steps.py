"""Steps 5 to 7 as the authors' released code takes them (its public commit of May 2025; facts, in code of our own).

Every pixel is a candidate, in the order of its distance: the segment of rank k consists of the k + 1 nearest
pixels, even if that cuts a plateau. Sums over all ranks come from one pass, as those
over all levels do in ``threshold``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.flood_fill import exact_flood, stable_sort
from m2n2_backend.m2n2.paper.threshold import Scores
from m2n2_backend.m2n2.places import Placed, index_of

GRADIENT_STEPS = 1024
"""The gradient is cut to integers from 0 to this."""

LEAST_THRESHOLD = 1e-7
"""Least threshold: a click that no candidate suits selects about its own pixel."""

_BEYOND = 2.0  # any distance that is not object


@dataclass(frozen=True)
class RankedMap:
    """The contribution of one click, which does not depend on the others.

    Attributes:
        distance: M', float32 [H, W] in [0, 1].
        ordered: The same values in ascending order, float32 [H*W].
        edge: Mean integer gradient along the outer boundary of each rank's segment, float32 [H*W - 1]; the last rank
            has no outside and is not a candidate.
    """

    distance: NDArray[np.float32]
    ordered: NDArray[np.float32]
    edge: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.distance.nbytes + self.ordered.nbytes + self.edge.nbytes


def ranked_map(full: NDArray[np.float32], row: int, col: int, *, flood_fill: bool = True) -> RankedMap:
    """Normalize, flood, normalize again, and score the edge of every rank's segment.

    Args:
        full: M, float32 [H, W], finite, ≥ 0.
        row: Row of the prompt pixel x.
        col: Column of the prompt pixel x.
        flood_fill: Whether to flood; otherwise M' is M itself.
    """
    distance = _normalized(full)
    if flood_fill:
        distance = _normalized(exact_flood(distance, row, col))
    order, ordered = stable_sort(distance)
    rank = np.empty(distance.size, np.int32)
    rank[order] = np.arange(distance.size, dtype=np.int32)
    count, total = _outer_boundary(rank.reshape(distance.shape), integer_gradient(distance))
    edge = total[:-1].astype(np.float32) / count[:-1].astype(np.float32)
    return RankedMap(distance, ordered, edge)


def integer_gradient(distance: NDArray[np.float32]) -> NDArray[np.int32]:
    """Sobel magnitude with reflected borders, as a whole number of 1/1024 of its maximum, cut off; int32 [H, W]."""
    down, right = (
        cv2.Sobel(distance, cv2.CV_32F, dx, 1 - dx, ksize=3, borderType=cv2.BORDER_REFLECT_101) for dx in (0, 1)
    )
    magnitude = np.sqrt(right * right + down * down)
    return np.asarray(_normalized(magnitude) * np.float32(GRADIENT_STEPS), dtype=np.int32)


def best_threshold(
    own: RankedMap, same: Sequence[float], other: Sequence[float], *, scores: Scores, prior: float
) -> float:
    """λ of the first rank with the largest score (Eq. 8 and 9), at least ``LEAST_THRESHOLD``.

    Where every rank scores 0 that is the first pixel's value, about 0. Without any score it is half of the maximum.

    Args:
        own: The map of prompt i.
        same: M'_i at the points of the same label, its own included.
        other: M'_i at the points of the other label; the map's maximum counts as one more.
        scores: Factors of Eq. 9 to use.
        prior: Share of all ranks from which on s_prior is 0.
    """
    if scores == Scores(prior=False, edge=False, pos=False, neg=False):
        return 0.5
    stop = count = len(own.edge)
    if count == 0:
        return LEAST_THRESHOLD
    if scores.prior:
        share_of_rank = np.arange(count, dtype=np.float32) * np.float32(1.0 / max(count - 1, 1))
        stop = int(np.searchsorted(share_of_rank, np.float32(prior)))
    if scores.neg:
        stop = min(stop, int(np.searchsorted(own.ordered, np.float32(min([*other, own.ordered[-1]])))))
    # Between two of these ranks the share of points inside does not change.
    reached = np.searchsorted(own.ordered, np.asarray(same, np.float32)) if scores.pos else np.zeros(1, np.intp)
    best, best_score = 0, np.float32(0.0)
    for low, high in pairwise(sorted({0, stop, *(int(rank) for rank in reached if rank < stop)})):
        share = np.float32(np.count_nonzero(reached <= low)) / np.float32(len(reached))
        values = own.edge[low:high] * share if scores.edge else np.full(1, share)
        index = int(values.argmax())
        if values[index] > best_score:
            best, best_score = low + index, values[index]
    return max(float(own.ordered[best]), LEAST_THRESHOLD)


def nearest_prompt(
    maps: Sequence[RankedMap],
    thresholds: Sequence[float],
    prompts: Sequence[Placed],
) -> NDArray[np.float32]:
    """Distance to the foreground, object where ≤ 1: the first of the nearest prompts decides (Eq. 10, 11).

    Every prompt's own pixel has its label in any case; of two prompts at one pixel the later wins.

    Args:
        maps: M'_i of each prompt.
        thresholds: λ_i of each prompt.
        prompts: The clicks with their labels y_i.

    Returns:
        float32 [H, W]; not continuous where foreground meets background.
    """
    best = np.full(maps[0].distance.shape, np.inf, np.float32)
    foreground = np.zeros(best.shape, np.bool_)
    for own, threshold, prompt in zip(maps, thresholds, prompts, strict=True):
        _nearer(own.distance, np.float32(threshold), prompt.positive, best, foreground)
    best[~foreground & (best <= 1.0)] = _BEYOND
    for prompt in prompts:
        best[index_of(prompt.place)] = 0.0 if prompt.positive else _BEYOND
    return best


def _normalized(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divided by the maximum; zeros stay."""
    most = values.max()
    return values / most if most > 0 else values


@njit(cache=True, nogil=True)
def _outer_boundary(rank, gradient):
    """For every rank's segment the number and summed gradient of the pixels outside with a 4-neighbor inside."""
    height, width = rank.shape
    count, total = np.zeros(rank.size, np.int64), np.zeros(rank.size, np.int64)
    for y in range(height):
        for x in range(width):
            own = first = rank[y, x]
            if y > 0:
                first = min(first, rank[y - 1, x])
            if y + 1 < height:
                first = min(first, rank[y + 1, x])
            if x > 0:
                first = min(first, rank[y, x - 1])
            if x + 1 < width:
                first = min(first, rank[y, x + 1])
            if first < own:
                count[first] += 1
                count[own] -= 1
                total[first] += gradient[y, x]
                total[own] -= gradient[y, x]
    return np.cumsum(count), np.cumsum(total)


@njit(parallel=True, cache=True, nogil=True)
def _nearer(distance, threshold, label, best, foreground):
    for y in prange(best.shape[0]):
        for x in range(best.shape[1]):
            value = distance[y, x] / threshold
            if value < best[y, x]:
                best[y, x] = value
                foreground[y, x] = label
