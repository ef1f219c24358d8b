"""Step 5: the modified flood fill (Sec. 3.3, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Indices = NDArray[np.integer[Any]]

LEVELS = 65536
"""Costs are quantized to this many levels over the map's own range."""


@dataclass(frozen=True)
class QuantizedMap:
    """A map of one prompt, as integer levels.

    Attributes:
        levels: uint16 [H, W]; 0 at the prompt.
        step: Size of one level in the map's unit (steps of the chain); the map is levels * step.
    """

    levels: NDArray[np.uint16]
    step: float


def flood_fill(markov_map: NDArray[np.float32], row: int | Indices, col: int | Indices) -> QuantizedMap:
    """M': the least threshold at which a 4-connected flood from the prompt reaches each pixel.

    A pixel costs |M[y] - M[x]|. With a bucket per level the queue is O(1), and pixels are settled in order of cost
    as in Algorithm 1; the result is within one level of the exact one.

    Args:
        markov_map: M, float32 [H, W], finite.
        row: Row of the prompt pixel x. A scribble gives an array [n]: the flood then starts from all of its pixels,
            and M[x] is their median.
        col: Column of the prompt pixel x, or an array [n].
    """
    quantized = quantize(markov_map, float(np.median(markov_map[row, col])))
    starts = np.atleast_1d(np.asarray(row, np.int64) * markov_map.shape[1] + col)
    return QuantizedMap(_flood(quantized.levels, starts, LEVELS), quantized.step)


def exact_flood(markov_map: NDArray[np.float32], row: int, col: int) -> NDArray[np.float32]:
    """M' without quantization, float32 [H, W]: the levels are the ranks of the costs.

    Sorting the costs takes longer than the flood itself.

    Args:
        markov_map: M, float32 [H, W], finite.
    """
    order, costs = stable_sort(np.abs(markov_map - markov_map[row, col]))
    levels = np.empty(costs.size, np.int32)
    levels[order] = np.cumsum(np.diff(costs, prepend=costs[0]) > 0)
    flooded = _flood(
        levels.reshape(markov_map.shape), np.array([row * markov_map.shape[1] + col]), levels[order[-1]] + 1
    )
    return np.asarray(costs[np.diff(costs, prepend=-1.0) > 0][flooded], np.float32)


def stable_sort(values: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Places in ascending order of their values, equal ones row by row, and the values in that order.

    Bits of floats ≥ 0 are ordered as the floats are, so that one sort of value and place in 64 bits does it, in a
    fifth of the time that NumPy's stable argsort takes.

    Args:
        values: float32 of any shape, finite, ≥ 0.
    """
    bits = np.ascontiguousarray(values).ravel().view(np.uint32).astype(np.uint64)
    packed = np.sort((bits << np.uint64(32)) | np.arange(bits.size, dtype=np.uint64))
    order = (packed & np.uint64(0xFFFFFFFF)).astype(np.intp)
    return order, (packed >> np.uint64(32)).astype(np.uint32).view(np.float32)


def quantize(markov_map: NDArray[np.float32], origin: float) -> QuantizedMap:
    """|M - origin| in levels, without a flood.

    Args:
        markov_map: M, float32 [H, W], finite.
        origin: M at the prompt.
    """
    cost = np.abs(markov_map - np.float32(origin))
    top = float(cost.max())
    step = top / (LEVELS - 1) if top > 0 else 1.0
    return QuantizedMap((cost * np.float32(1.0 / step) + np.float32(0.5)).astype(np.uint16), step)


@njit(cache=True, nogil=True)
def _flood(cost, starts, levels):
    height, width = cost.shape
    wide = width + 2  # a border of known pixels spares every question whether a neighbor is in the image
    padded = np.zeros((height + 2, wide), cost.dtype)
    padded[1:-1, 1:-1] = cost
    flat = padded.ravel()
    # Buckets are linked lists: head[level] is the newest pixel, following[pixel] the one queued before it.
    last, unknown = -1, -2
    head = np.full(levels, last, np.int32)
    following = np.full((height + 2) * wide, last, np.int32)
    following.reshape(height + 2, wide)[1:-1, 1:-1] = unknown
    for start in starts:
        pixel = (start // width + 1) * wide + start % width + 1
        flat[pixel] = 0
        following[pixel] = head[0]
        head[0] = pixel
    for level in range(levels):
        while head[level] != last:
            pixel = head[level]
            head[level] = following[pixel]
            for near in (pixel + 1, pixel - 1, pixel + wide, pixel - wide):
                if following[near] == unknown:
                    bucket = max(level, np.int64(flat[near]))
                    flat[near] = bucket
                    following[near] = head[bucket]
                    head[bucket] = near
    return padded[1:-1, 1:-1].copy()
