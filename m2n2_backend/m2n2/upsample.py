"""Step 4: h×w map → H×W map by joint bilateral upsampling guided by the photograph (Sec. 3.3, 4.1).

The weights depend on the photograph alone, so they are built once per image and applied once per map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

SIGMA_SPATIAL = 1.0
"""Of the spatial Gaussian, in cells of the grid (Sec. 4.1)."""

SIGMA_RANGE = 0.1
"""Of the isotropic range Gaussian, for RGB in [0, 1] (Sec. 4.1)."""

RADIUS = 2
"""The window reaches this many cells from the pixel in each direction. The paper states none."""

SAMPLES = 4
"""Guidance is read at up to this many pixels per side of a cell; 0 reads every pixel, as the paper does."""

_FULL = 65535  # weights of a pixel are 16-bit and sum to this
_DARKEST = 20.0  # the range term is not let below exp(-20): a pixel unlike all samples falls back to the spatial term


@dataclass(frozen=True)
class JointBilateral:
    """The upsampling operator of one photograph.

    Attributes:
        weights: uint16 [H, (2*radius+1)², W]; the weights of one pixel sum to 65535. Cells go row by row.
        height: h of the maps it takes.
        width: w of the maps it takes.
        radius: In cells.
    """

    weights: NDArray[np.uint16]
    height: int
    width: int
    radius: int

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self.weights.nbytes

    def apply(self, small: NDArray[np.float32]) -> NDArray[np.float32]:
        """Upsample one map.

        Args:
            small: float32 [h, w].

        Returns:
            float32 [H, W]; every value is a convex combination of values of ``small``.
        """
        out = np.empty((self.weights.shape[0], self.weights.shape[2]), np.float32)
        cell_rows = cell_of_pixels(out.shape[0], self.height)
        cell_cols = cell_of_pixels(out.shape[1], self.width)
        _apply(self.weights, np.ascontiguousarray(small), cell_rows, cell_cols, self.radius, out)
        return out


def cell_of_pixels(pixels: int, cells: int) -> NDArray[np.int32]:
    """Cell that holds each pixel's center along one axis, int32 [pixels], values in [0, cells)."""
    return ((np.arange(pixels) * 2 + 1) * cells // (2 * pixels)).astype(np.int32)


def joint_bilateral(
    rgb: NDArray[np.uint8],
    height: int,
    width: int,
    *,
    sigma_spatial: float = SIGMA_SPATIAL,
    sigma_range: float = SIGMA_RANGE,
    radius: int = RADIUS,
    samples: int = SAMPLES,
) -> JointBilateral:
    """Build the operator: for each pixel p, the weight of each cell near it.

    The weight of a cell is the sum over the guidance samples q inside it, no further than ``radius`` cells from p in
    x and y, of exp(-|p-q|²/2σs²)·exp(-|I_p-I_q|²/2σr²), |p-q| in cells.

    Args:
        rgb: The guidance, uint8 [H, W, 3].
        height: h, rows of the grid.
        width: w, columns of the grid.
        sigma_spatial: In cells.
        sigma_range: For RGB in [0, 1].
        radius: Of the window, in cells, ≥ 1.
        samples: Guidance samples per side of a cell; 0 for every pixel.
    """
    rows = _Axis(rgb.shape[0], height, samples, radius, sigma_spatial)
    cols = _Axis(rgb.shape[1], width, samples, radius, sigma_spatial)
    squares = 2.0 * (sigma_range * 255.0) ** 2
    table = np.exp(-np.arange(int(np.ceil(_DARKEST * squares)) + 1) / squares).astype(np.float32)
    pixels = np.ascontiguousarray(rgb.transpose(2, 0, 1)).astype(np.int32)  # [3, H, W]
    guide = np.ascontiguousarray(pixels[:, rows.position][:, :, cols.position])  # [3, samples down, samples across]
    side = 2 * radius + 1
    weights = np.zeros((rgb.shape[0], side * side, rgb.shape[1]), np.uint16)
    _build(
        pixels, guide, table, radius, weights,
        rows.cell_of_pixel, rows.first, rows.count, rows.weight, rows.cell_of_sample,
        cols.cell_of_pixel, cols.first, cols.count, cols.weight, cols.cell_of_sample,
    )  # fmt: skip
    return JointBilateral(weights, height, width, radius)


class _Axis:
    """One axis of the separable part: which samples each pixel sees, and how strongly."""

    def __init__(self, pixels: int, cells: int, samples: int, radius: int, sigma: float) -> None:
        self.cell_of_pixel = cell_of_pixels(pixels, cells)
        self.position, share = _sample_positions(self.cell_of_pixel, samples)
        self.cell_of_sample = self.cell_of_pixel[self.position]
        distance = (self.position[None, :] - np.arange(pixels)[:, None]) * (cells / pixels)
        near = np.abs(distance) <= radius
        self.first = near.argmax(axis=1).astype(np.int32)
        self.count = near.sum(axis=1).astype(np.int32)
        dense = np.exp(-0.5 * (distance / sigma) ** 2) * share[None, :]
        columns = self.first[:, None] + np.arange(int(self.count.max()))[None, :]
        self.weight = np.take_along_axis(dense, np.minimum(columns, len(self.position) - 1), axis=1)
        self.weight = np.ascontiguousarray(self.weight, dtype=np.float32)


def _sample_positions(cell_of_pixel: NDArray[np.int32], samples: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Sampled pixels along one axis and how many pixels each stands for."""
    positions: list[int] = []
    shares: list[float] = []
    starts = np.flatnonzero(np.diff(cell_of_pixel, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(cell_of_pixel)], strict=True):
        size = int(stop - start)
        count = size if samples == 0 else min(samples, size)
        positions.extend(int(start + (2 * i + 1) * size // (2 * count)) for i in range(count))
        shares.extend([size / count] * count)
    return np.asarray(positions, np.intp), np.asarray(shares)


@njit(parallel=True, cache=True, nogil=True)
def _build(
    pixels, guide, table, radius, weights,
    row_cell, row_first, row_count, row_weight, row_sample_cell,
    col_cell, col_first, col_count, col_weight, col_sample_cell,
):  # fmt: skip
    side = 2 * radius + 1
    last = table.shape[0] - 1
    for y in prange(pixels.shape[1]):
        sums = np.zeros(side * side, np.float32)
        line = np.empty(col_weight.shape[1], np.float32)
        for x in range(pixels.shape[2]):
            sums[:] = 0.0
            red, green, blue = pixels[0, y, x], pixels[1, y, x], pixels[2, y, x]
            left, across = col_first[x], col_count[x]
            for i in range(row_count[y]):
                sample_row = row_first[y] + i
                for j in range(across):
                    r = guide[0, sample_row, left + j] - red
                    g = guide[1, sample_row, left + j] - green
                    b = guide[2, sample_row, left + j] - blue
                    line[j] = col_weight[x, j] * table[min(r * r + g * g + b * b, last)]
                base = (row_sample_cell[sample_row] - row_cell[y] + radius) * side - col_cell[x] + radius
                strength = row_weight[y, i]
                for j in range(across):
                    sums[base + col_sample_cell[left + j]] += strength * line[j]
            _quantize(sums, weights, y, x)


@njit(inline="always")
def _quantize(sums, weights, y, x):
    """Write 16-bit weights whose sum is exact: the largest takes what rounding left over."""
    total = np.float32(0.0)
    best = 0
    for c in range(sums.shape[0]):
        total += sums[c]
        if sums[c] > sums[best]:
            best = c
    left_over = _FULL
    for c in range(sums.shape[0]):
        weight = np.int64(sums[c] / total * _FULL + np.float32(0.5))
        weights[y, c, x] = weight
        left_over -= weight
    weights[y, best, x] += left_over


@njit(parallel=True, cache=True, nogil=True)
def _apply(weights, small, cell_rows, cell_cols, radius, out):
    side = 2 * radius + 1
    height, width = small.shape
    for y in prange(weights.shape[0]):
        line = np.zeros(weights.shape[2], np.float32)
        values = np.empty(weights.shape[2], np.float32)
        for dy in range(side):
            # Cells outside of the grid have weight 0; clamping only keeps the index legal.
            row = min(max(cell_rows[y] + dy - radius, 0), height - 1)
            for dx in range(side):
                for x in range(values.shape[0]):
                    values[x] = small[row, min(max(cell_cols[x] + dx - radius, 0), width - 1)]
                for x in range(values.shape[0]):
                    line[x] += np.float32(weights[y, dy * side + dx, x]) * values[x]
        for x in range(line.shape[0]):
            out[y, x] = line[x] * np.float32(1.0 / _FULL)
