"""The loops of joint bilateral upsampling, and how their arrays lie in memory.

Building the table takes one exponential for each pixel and each guidance sample near it, some hundred million a
photograph, so the innermost loop has to run in whole vectors. Hence this layout: in each row of the photograph the
pixels of one cell stand in a *block*, and all blocks of a row are equally long, a multiple of eight (the last pixel
of a cell is repeated to fill its block). The innermost loop then goes over one block, with one sample and one cell
fixed. What a sample's column weighs for the pixels around it is laid out in the same blocks, from the first cell that
can see the sample on: ``2 * radius + 1`` of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

FULL = 65535
"""Weights of a pixel are 16-bit and sum to this."""

_DARKEST = 20.0  # the range term is at least exp(-20): a pixel unlike all samples falls back to the spatial term
_PIECES = 16.0  # exp(-z) is computed as exp(-z/16) squared four times


class Axis(NamedTuple):
    """Pixels, cells and guidance samples along one axis of the photograph.

    Attributes:
        cell_of_pixel: int32 [pixels].
        first_pixel: [cells + 1]; the pixels of cell c are first_pixel[c] to first_pixel[c + 1], none in a photograph
            that is smaller than its grid.
        position: Pixel of each sample, [samples], ascending.
        first_sample: [cells + 1]; the samples of cell c are first_sample[c] to first_sample[c + 1].
        weight: Spatial weight of each sample for each pixel, float32 [samples, pixels].
    """

    cell_of_pixel: NDArray[np.int32]
    first_pixel: NDArray[np.intp]
    position: NDArray[np.intp]
    first_sample: NDArray[np.intp]
    weight: NDArray[np.float32]


class _Blocks(NamedTuple):
    """The columns in blocks.

    Attributes:
        length: Pixels of a block.
        first: Place in a row's blocks at which ``weight`` of each sample begins, [samples].
        weight: Weight of each sample for the pixels of the cells around it, float32
            [samples, (2 * radius + 1) * length].
    """

    length: int
    first: NDArray[np.intp]
    weight: NDArray[np.float32]


def build(rgb: NDArray[np.uint8], rows: Axis, cols: Axis, radius: int, sigma_range: float) -> NDArray[np.uint16]:
    """The table of weights.

    Args:
        rgb: The guidance, uint8 [H, W, 3].
        rows: The axis along the photograph's height.
        cols: The axis along its width.
        radius: Reach of the window, in cells.
        sigma_range: For RGB in [0, 255].

    Returns:
        uint16 [H, (2 * radius + 1)², W]; those of a pixel sum to ``FULL``.
    """
    pixels = np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32)  # [3, H, W]
    guide = np.ascontiguousarray(pixels[:, rows.position][:, :, cols.position])  # [3, samples down, samples across]
    columns, length = _columns_in_blocks(cols.first_pixel)
    side = 2 * radius + 1
    first = np.maximum(cols.cell_of_pixel[cols.position] - radius, 0) * length
    around = np.minimum(first[:, None] + np.arange(side * length), len(columns) - 1)
    blocks = _Blocks(length, first, np.take_along_axis(cols.weight, columns[around], axis=1))
    scale = 1.0 / (2.0 * _PIECES * sigma_range**2)
    out = np.empty((rgb.shape[0], side * side, rgb.shape[1]), np.uint16)
    rows = rows._replace(weight=np.ascontiguousarray(rows.weight.T))  # [H, samples]
    _build(np.ascontiguousarray(pixels[:, :, columns]), guide, scale, radius, rows, cols, blocks, out)
    return out


def _columns_in_blocks(first_pixel: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """Column of the photograph at each place of a row's blocks, and the length of a block."""
    sizes = np.diff(first_pixel)
    length = -(-int(sizes.max()) // 8) * 8
    inside = np.minimum(np.arange(length)[None, :], np.maximum(sizes - 1, 0)[:, None])
    return np.minimum(first_pixel[:-1, None] + inside, first_pixel[-1] - 1).ravel(), length


@njit(parallel=True, cache=True, nogil=True, fastmath={"contract", "reassoc", "nnan"})
def _build(pixels, guide, scale, radius, rows, cols, blocks, out):
    side = 2 * radius + 1
    height, width = rows.first_pixel.shape[0] - 1, cols.first_pixel.shape[0] - 1
    factor, most = np.float32(scale), np.float32(_DARKEST / _PIECES)
    for y in prange(pixels.shape[1]):
        sums = np.zeros((side * side, pixels.shape[2]), np.float32)
        for c in range(side * side * width):
            at, own = c // width, c % width
            row, col = rows.cell_of_pixel[y] + at // side - radius, own + at % side - radius
            empty = cols.first_pixel[own] == cols.first_pixel[own + 1]
            if row < 0 or row >= height or col < 0 or col >= width or empty:
                continue
            first = own * blocks.length
            total = sums[at, first : first + blocks.length]
            red = pixels[0, y, first : first + blocks.length]
            green = pixels[1, y, first : first + blocks.length]
            blue = pixels[2, y, first : first + blocks.length]
            for i in range(rows.first_sample[row], rows.first_sample[row + 1]):
                strength = rows.weight[y, i]
                for j in range(cols.first_sample[col], cols.first_sample[col + 1]):
                    spatial = blocks.weight[j, first - blocks.first[j] : first - blocks.first[j] + blocks.length]
                    r, g, b = guide[0, i, j], guide[1, i, j], guide[2, i, j]
                    for x in range(blocks.length):
                        dr, dg, db = r - red[x], g - green[x], b - blue[x]
                        piece = min((dr * dr + dg * dg + db * db) * factor, most)
                        total[x] += strength * spatial[x] * _exp(piece)
        for own in range(width):
            for x in range(cols.first_pixel[own], cols.first_pixel[own + 1]):
                _quantize(sums, own * blocks.length + x - cols.first_pixel[own], out, y, x)


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
def _quantize(sums, place, weights, y, x):
    """Write 16-bit weights whose sum is exact: the largest takes what rounding left over."""
    total = np.float32(0.0)
    best = 0
    for c in range(sums.shape[0]):
        total += sums[c, place]
        if sums[c, place] > sums[best, place]:
            best = c
    left_over = FULL
    for c in range(sums.shape[0]):
        weight = np.int64(sums[c, place] / total * FULL + np.float32(0.5))
        weights[y, c, x] = weight
        left_over -= weight
    weights[y, best, x] += left_over


@njit(parallel=True, cache=True, nogil=True)
def apply(weights, small, first_row, first_col, across, unit, out):
    """Weighted means of a map's cells: ``small`` float32 [h, w] → ``out`` float32 [H, W]."""
    height, width = small.shape
    for y in prange(weights.shape[0]):
        line = np.zeros(weights.shape[2], np.float32)
        values = np.empty(weights.shape[2], np.float32)
        for cell in range(weights.shape[1]):
            # Cells outside of the grid have weight 0; clamping only keeps the index legal.
            row = min(max(first_row[y] + cell // across, 0), height - 1)
            for x in range(values.shape[0]):
                values[x] = small[row, min(max(first_col[x] + cell % across, 0), width - 1)]
            for x in range(values.shape[0]):
                line[x] += np.float32(weights[y, cell, x]) * values[x]
        for x in range(line.shape[0]):
            out[y, x] = line[x] * unit
