"""Step 4 as the released code has it: the *solution* is sampled at every pixel of the disc, not one value per cell.

There the map is first interpolated bilinearly to the photograph's size, then averaged over all pixels q with
|p-q| ≤ 3σ by spatial and range Gaussian. Both are linear in the map, so each pixel's average is a weighted sum of the
cells near it: the weights, at most 8×8, are added up once per photograph, and a map costs as much as in ``upsample``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.upsample import SIGMA_RANGE, SIGMA_SPATIAL, JointBilateral

REACH = 3.0
"""Radius of the disc, in σ (released code)."""

_CHUNK = 32  # pixels of a row whose weights are added up together: a constant, so that the inner loop is unrolled
_SMALLEST = np.float32(126.0)  # 2^-126 is the least normal 32-bit number


class _Lines(NamedTuple):
    """One axis: the cells that bilinear interpolation mixes at each pixel, and the cells that a pixel's disc covers.

    Attributes:
        lower: Cell at or before the pixel's center, int32 [pixels].
        upper: The cell after ``lower``; the same cell beyond the last center.
        share: Weight of ``upper``, float32 [pixels].
        first: First cell that a pixel's disc covers, int32 [pixels].
        side: Largest number of cells that a disc covers.
    """

    lower: NDArray[np.int32]
    upper: NDArray[np.int32]
    share: NDArray[np.float32]
    first: NDArray[np.int32]
    side: int


def solution_bilateral(
    rgb: NDArray[np.uint8],
    height: int,
    width: int,
    *,
    sigma_spatial: float = SIGMA_SPATIAL,
    sigma_range: float = SIGMA_RANGE,
) -> JointBilateral:
    """Build the operator of one photograph, 256 bytes a pixel.

    Args:
        rgb: The guidance, uint8 [H, W, 3].
        height: h, rows of the grid.
        width: w, columns of the grid.
        sigma_spatial: Standard deviation in cells.
        sigma_range: Standard deviation for RGB in [0, 1].
    """
    tall, wide = rgb.shape[:2]
    down, across = tall / height * sigma_spatial, wide / width * sigma_spatial  # pixels per σ
    most = _within(down, 0.0)
    reach = np.array([_within(across, (dy / down) ** 2) for dy in range(-most, most + 1)])
    rows, cols = _lines(tall, height, most), _lines(wide, width, int(reach.max()))
    spatial = _disc(reach, down, across)
    padded = -(-wide // _CHUNK) * _CHUNK
    pixels = np.pad(rgb.transpose(2, 0, 1).astype(np.float32), ((0, 0), (0, 0), (0, padded - wide)), mode="edge")
    # exp(-d²/2σ²) as a power of two
    pixels *= np.float32(np.sqrt(np.log2(np.e) / 2.0) / (255.0 * sigma_range))
    weights = np.empty((tall, rows.side * cols.side, wide), np.float32)
    _build(pixels, spatial, reach, rows, cols, weights)
    return JointBilateral(weights, height, width, rows.first, cols.first, (rows.side, cols.side), 1.0)


def _within(pixels_per_sigma: float, taken: float) -> int:
    """The largest distance in pixels whose square, in σ², still fits into the disc beside ``taken``."""
    distance = int(REACH * pixels_per_sigma) + 1
    while (distance / pixels_per_sigma) ** 2 + taken > REACH**2:
        distance -= 1
    return distance


def _lines(pixels: int, cells: int, reach: int) -> _Lines:
    place = np.maximum((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0.0)
    lower = np.minimum(place.astype(np.int32), cells - 1)
    upper = np.minimum(lower + 1, cells - 1)
    index = np.arange(pixels)
    first = lower[np.maximum(index - reach, 0)]
    last = upper[np.minimum(index + reach, pixels - 1)]
    return _Lines(lower, upper, (place - lower).astype(np.float32), first, int((last - first).max()) + 1)


def _disc(reach: NDArray[np.intp], down: float, across: float) -> NDArray[np.float32]:
    """Spatial weight by rows (dy) and columns (dx), 0 outside of the disc; dx = 0 stands in the middle.

    Wide enough on both sides for every pixel of a chunk to read the weight of every pixel that one of them can see.
    """
    most = int(reach.max()) + _CHUNK
    dx, dy = np.arange(-most, most + 1), np.arange(-(len(reach) // 2), len(reach) // 2 + 1)
    gaussian = np.exp(-0.5 * ((dy[:, None] / down) ** 2 + (dx[None, :] / across) ** 2))
    return np.where(np.abs(dx)[None, :] <= reach[:, None], gaussian, 0.0).astype(np.float32)


@njit(parallel=True, cache=True, nogil=True, fastmath={"contract", "reassoc", "nnan"})
def _build(pixels, spatial, reach, rows, cols, out):
    height, width = out.shape[0], out.shape[2]
    middle, far = spatial.shape[1] // 2, reach.max()
    for y in prange(height):
        sums = np.empty((rows.side, cols.side + _CHUNK + 1, _CHUNK), np.float32)
        line = np.empty((cols.side + _CHUNK + 1, _CHUNK), np.float32)
        total = np.empty((2, _CHUNK), np.float32)
        for x0 in range(0, width, _CHUNK):
            base = cols.first[x0]
            last = cols.upper[min(x0 + _CHUNK - 1 + far, width - 1)] - base
            sums[:, : last + 1] = 0.0
            own = pixels[:, y, x0 : x0 + _CHUNK].copy()  # contiguous, or the inner loop would gather
            for qy in range(max(y - reach.shape[0] // 2, 0), min(y + reach.shape[0] // 2, height - 1) + 1):
                line[: last + 1] = 0.0
                row = qy - y + reach.shape[0] // 2
                qx, end = max(x0 - reach[row], 0), min(x0 + _CHUNK - 1 + reach[row], width - 1)
                while qx <= end:
                    lower = cols.lower[qx]
                    stop = qx
                    while stop <= end and cols.lower[stop] == lower:
                        stop += 1
                    total[:] = 0.0
                    _add(
                        pixels[:, qy, qx:stop],
                        own,
                        spatial[row, middle + x0 - stop + 1 :],
                        cols.share[qx:stop],
                        total,
                    )
                    for x in range(_CHUNK):
                        line[lower - base, x] += total[0, x] - total[1, x]
                        line[cols.upper[qx] - base, x] += total[1, x]
                    qx = stop
                share = rows.share[qy]
                low, high = rows.lower[qy] - rows.first[y], rows.upper[qy] - rows.first[y]
                for c in range(last + 1):
                    for x in range(_CHUNK):
                        sums[low, c, x] += (np.float32(1.0) - share) * line[c, x]
                        sums[high, c, x] += share * line[c, x]
            for x in range(x0, min(x0 + _CHUNK, width)):
                _write(sums[:, :, x - x0], cols.first[x] - base, last, cols.side, out[y, :, x])


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nnan"})
def _add(guide, own, spatial, share, total):
    """Add up, for the pixels of a chunk, the weights of some neighbors in one row, and the part ``share`` takes."""
    count = guide.shape[1]
    for q in range(count):
        red, green, blue, part = guide[0, q], guide[1, q], guide[2, q], share[q]
        near = spatial[count - 1 - q : count - 1 - q + _CHUNK]
        for x in range(_CHUNK):
            dr, dg, db = red - own[0, x], green - own[1, x], blue - own[2, x]
            weight = near[x] * _power(min(dr * dr + dg * dg + db * db, _SMALLEST))
            total[0, x] += weight
            total[1, x] += weight * part


@njit(inline="always")
def _power(z):
    """2^-z for z in [0, 126], relative error 3e-7; without call and table, so that loops vectorize."""
    whole = np.int32(z + np.float32(0.5))
    rest = (np.float32(whole) - z) * np.float32(np.log(2.0))  # within ±0.35
    value = np.float32(1 / 120) + rest * np.float32(1 / 720)
    value = np.float32(1 / 6) + rest * (np.float32(1 / 24) + rest * value)
    value = np.float32(1.0) + rest * (np.float32(1.0) + rest * (np.float32(0.5) + rest * value))
    return value * np.int32((np.int32(127) - whole) << np.int32(23)).view(np.float32)


@njit(inline="always")
def _write(sums, shift, last, side, weights):
    total = np.float32(0.0)
    for r in range(sums.shape[0]):
        for c in range(shift, min(shift + side, last + 1)):
            total += sums[r, c]
    for r in range(sums.shape[0]):
        for c in range(side):
            weights[r * side + c] = sums[r, shift + c] / total if shift + c <= last else np.float32(0.0)
