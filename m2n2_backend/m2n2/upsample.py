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
_PIECES = 16.0  # exp(-z) is computed as exp(-z/16) squared four times


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
    pixels = np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32)  # [3, H, W]
    guide = np.ascontiguousarray(pixels[:, rows.position][:, :, cols.position])  # [3, samples down, samples across]
    seats, block = _seats(cols.first_pixel)
    # Of a sample's column, the weight it has for the pixel in each seat of the cells around it.
    reach = np.maximum(cols.cell_of_sample - radius, 0) * block  # first such seat
    band = np.minimum(reach[:, None] + np.arange((2 * radius + 1) * block), len(seats) - 1)
    side = 2 * radius + 1
    weights = np.empty((rgb.shape[0], side * side, rgb.shape[1]), np.uint16)
    _build(
        np.ascontiguousarray(pixels[:, :, seats]), guide, 1.0 / (2.0 * _PIECES * (sigma_range * 255.0) ** 2), radius,
        rows.cell_of_pixel, rows.first_sample, np.ascontiguousarray(rows.weight.T),
        cols.first_pixel, cols.first_sample, np.take_along_axis(cols.weight, seats[band], axis=1), reach, block,
        weights,
    )  # fmt: skip
    return JointBilateral(weights, height, width, radius)


class _Axis:
    """One axis of the separable part: which samples there are, and how strongly each pixel sees them."""

    def __init__(self, pixels: int, cells: int, samples: int, radius: int, sigma: float) -> None:
        self.cell_of_pixel = cell_of_pixels(pixels, cells)
        self.position, share = _sample_positions(self.cell_of_pixel, samples)
        self.cell_of_sample = self.cell_of_pixel[self.position]
        # Of the pixels and of the samples in cell c: first[c] to first[c + 1]; a small photograph leaves cells empty.
        self.first_pixel = np.searchsorted(self.cell_of_pixel, np.arange(cells + 1))
        self.first_sample = np.searchsorted(self.cell_of_sample, np.arange(cells + 1))
        distance = (self.position[:, None] - np.arange(pixels)[None, :]) * (cells / pixels)
        gaussian = np.exp(-0.5 * (distance / sigma) ** 2) * share[:, None]
        self.weight = np.where(np.abs(distance) <= radius, gaussian, 0.0).astype(np.float32)  # [samples, pixels]


def _seats(first_pixel: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """Pixels of a row with those of each cell in a block of equal length, and that length.

    Blocks of a multiple of eight let the innermost loop of ``_build`` run in whole vectors, which halves its time.
    The last pixel of a cell is repeated to fill its block.
    """
    sizes = np.diff(first_pixel)
    block = -(-int(sizes.max()) // 8) * 8
    inside = np.minimum(np.arange(block)[None, :], np.maximum(sizes - 1, 0)[:, None])
    return np.minimum(first_pixel[:-1, None] + inside, first_pixel[-1] - 1).ravel(), block


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


@njit(parallel=True, cache=True, nogil=True, fastmath={"contract", "reassoc", "nnan"})
def _build(
    pixels, guide, scale, radius, row_cell, row_first, row_weight, col_pixel, col_first, col_weight, reach, block, out
):  # fmt: skip
    side = 2 * radius + 1
    height, width = row_first.shape[0] - 1, col_first.shape[0] - 1
    factor, most = np.float32(scale), np.float32(_DARKEST / _PIECES)
    for y in prange(pixels.shape[1]):
        sums = np.zeros((side * side, pixels.shape[2]), np.float32)
        for c in range(side * side * width):
            at, own = c // width, c % width
            row, col = row_cell[y] + at // side - radius, own + at % side - radius
            if row < 0 or row >= height or col < 0 or col >= width or col_pixel[own] == col_pixel[own + 1]:
                continue
            first = own * block
            total = sums[at, first : first + block]
            red = pixels[0, y, first : first + block]
            green = pixels[1, y, first : first + block]
            blue = pixels[2, y, first : first + block]
            for i in range(row_first[row], row_first[row + 1]):
                strength = row_weight[y, i]
                for j in range(col_first[col], col_first[col + 1]):
                    place = col_weight[j, first - reach[j] : first - reach[j] + block]
                    r, g, b = guide[0, i, j], guide[1, i, j], guide[2, i, j]
                    for x in range(block):
                        dr, dg, db = r - red[x], g - green[x], b - blue[x]
                        piece = min((dr * dr + dg * dg + db * db) * factor, most)
                        total[x] += strength * place[x] * _exp(piece)
        for own in range(width):
            for x in range(col_pixel[own], col_pixel[own + 1]):
                _quantize(sums, own * block + x - col_pixel[own], out, y, x)


@njit(inline="always")
def _exp(piece):
    """exp(-16·piece) for piece in [0, 1.25], relative error 5e-5; without call and table, so that loops vectorize."""
    c1, c2, c3 = np.float32(-0.99991237), np.float32(0.49910018), np.float32(-0.16352947)
    c4, c5 = np.float32(0.03667403), np.float32(-0.00445393)
    value = np.float32(1.0) + piece * (c1 + piece * (c2 + piece * (c3 + piece * (c4 + piece * c5))))
    value *= value
    value *= value
    value *= value
    return value * value


@njit(inline="always")
def _quantize(sums, seat, weights, y, x):
    """Write 16-bit weights whose sum is exact: the largest takes what rounding left over."""
    total = np.float32(0.0)
    best = 0
    for c in range(sums.shape[0]):
        total += sums[c, seat]
        if sums[c, seat] > sums[best, seat]:
            best = c
    left_over = _FULL
    for c in range(sums.shape[0]):
        weight = np.int64(sums[c, seat] / total * _FULL + np.float32(0.5))
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
