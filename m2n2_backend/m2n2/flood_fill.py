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
        row: Of the prompt pixel x; of a scribble an array [n]: the flood starts from all its pixels, and M[x] is
            their median.
        col: The same of its column.
    """
    quantized = quantize(markov_map, float(np.median(markov_map[row, col])))
    starts = np.atleast_1d(np.asarray(row, np.int64) * markov_map.shape[1] + col)
    return QuantizedMap(_flood(quantized.levels, starts), quantized.step)


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
def _flood(cost, starts):
    height, width = cost.shape
    flat = cost.ravel()
    out = np.zeros(height * width, np.uint16)
    known = np.zeros(height * width, np.bool_)
    # Buckets are linked lists: head[level] is the newest pixel, following[pixel] the one queued before it.
    head = np.full(LEVELS, -1, np.int32)
    following = np.empty(height * width, np.int32)
    for start in starts:
        known[start] = True
        following[start] = head[0]
        head[0] = start
    for level in range(LEVELS):
        while head[level] >= 0:
            pixel = head[level]
            head[level] = following[pixel]
            out[pixel] = level
            y = pixel // width
            x = pixel - y * width
            for side in range(4):
                if side == 0 and x + 1 < width:
                    near = pixel + 1
                elif side == 1 and x > 0:
                    near = pixel - 1
                elif side == 2 and y + 1 < height:
                    near = pixel + width
                elif side == 3 and y > 0:
                    near = pixel - width
                else:
                    continue
                if not known[near]:
                    known[near] = True
                    bucket = max(level, np.int64(flat[near]))
                    following[near] = head[bucket]
                    head[bucket] = near
    return out.reshape(height, width)
