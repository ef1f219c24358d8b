"""The pixels of a photograph as the graph of a minimum cut, whose edges cost less where colors change."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from m2n2_backend.m2n2.refine.min_cut import STEPS

UNIT = 100
"""Capacities are integers: hundredths of a nat."""


def in_units(nats: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
    """Nats as integer capacities, int32."""
    return np.asarray(np.rint(nats * UNIT), np.int32)


def pixel_graph(
    undecided: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    rgb: NDArray[np.uint8],
    nats: NDArray[np.float64],
    smoothness: float,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """The graph of some pixels of a photograph, m of them.

    Neighbors p and q of different labels cost smoothness·exp(-β|I_p-I_q|²)/|p-q|, with β such that the mean exponent
    is 1/2. The cost of an edge to a pixel that is decided is added to its neighbor's ``unary``.

    Args:
        undecided: The pixels, bool [h, w].
        mask: Labels of the others, bool [h, w].
        rgb: uint8 [h, w, 3], contiguous and writable: the loops are compiled for one kind of array.
        nats: Evidence for foreground, float64 [m].
        smoothness: Nats that an edge between pixels of equal color costs.

    Returns:
        ``unary``, ``near`` and ``capacity`` of :func:`min_cut`, in units of 1/``UNIT`` nats.
    """
    unary = in_units(nats)
    near, capacity = _pixel_graph(undecided, mask, rgb, unary, smoothness * UNIT, STEPS)
    return unary, near, capacity


@njit(parallel=True, cache=True, nogil=True)
def _pixel_graph(open_, mask, rgb, unary, smoothness, steps):
    height, width = open_.shape
    index = np.full((height, width), -1, np.int32)
    rows, cols = np.nonzero(open_)
    for i in range(rows.size):
        index[rows[i], cols[i]] = i
    total, count = 0.0, 0  # of integers, so that threads change nothing
    for i in prange(rows.size):
        for d in range(0, 8, 2):
            y, x = rows[i] + steps[d, 0], cols[i] + steps[d, 1]
            if 0 <= y < height and 0 <= x < width:
                total += _difference(rgb, rows[i], cols[i], y, x)
                count += 1
    beta = count / (2.0 * total) if total > 0 else 0.0
    near = np.full((rows.size, 8), -1, np.int32)
    capacity = np.zeros((rows.size, 8), np.int32)
    for i in prange(rows.size):
        for d in range(8):
            y, x = rows[i] + steps[d, 0], cols[i] + steps[d, 1]
            if y < 0 or x < 0 or y >= height or x >= width or 0 <= index[y, x] < i:
                continue
            cost = smoothness * np.exp(-beta * _difference(rgb, rows[i], cols[i], y, x))
            weight = np.int32((cost if d < 4 else cost * np.sqrt(0.5)) + 0.5)
            j = index[y, x]
            if j >= 0:
                near[i, d], near[j, d ^ 1] = j, i
                capacity[i, d], capacity[j, d ^ 1] = weight, weight
            else:
                unary[i] += weight if mask[y, x] else -weight
    return near, capacity


@njit(inline="always")
def _difference(rgb, y, x, row, col):
    total = 0.0
    for c in range(3):
        step = float(rgb[y, x, c]) - float(rgb[row, col, c])
        total += step * step
    return total
