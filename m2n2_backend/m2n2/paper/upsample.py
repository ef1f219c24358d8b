"""Step 4: h×w map → H×W map by joint bilateral upsampling guided by the photograph (Sec. 3.3, 4.1).

The weights depend on the photograph alone, so they are built once per image and applied once per map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper import upsample_kernel as kernel
from m2n2_backend.rasters import cell_of

SIGMA_SPATIAL = 1.0
"""Standard deviation of the spatial Gaussian, in cells of the grid (Sec. 4.1)."""

SIGMA_RANGE = 0.1
"""Standard deviation of the isotropic range Gaussian, for RGB in [0, 1] (Sec. 4.1)."""

RADIUS = 2
"""The window reaches this many cells from the pixel in each direction. The paper states none."""

SAMPLES = 4
"""Guidance is read at up to this many pixels per side of a cell; 0 reads every pixel, as the paper does."""


@dataclass(frozen=True)
class JointBilateral:
    """The upsampling operator of one photograph.

    Attributes:
        weights: [H, a*b, W] of a window of a×b cells at each pixel, row by row: uint16, which sum to 65535 at each
            pixel, or float32, which sum to 1.
        height: h of the maps it takes.
        width: w of the maps it takes.
        first_row: First row of each pixel row's window, int32 [H]; rows outside of the grid have weight 0.
        first_col: First column of each pixel column's window, int32 [W].
        window: Rows and columns of the window, (a, b).
        unit: Factor that makes the weights of a pixel sum to 1.
    """

    weights: NDArray[np.uint16] | NDArray[np.float32]
    height: int
    width: int
    first_row: NDArray[np.int32]
    first_col: NDArray[np.int32]
    window: tuple[int, int]
    unit: float

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
        window = (self.first_row, self.first_col, self.window[1])
        kernel.apply(self.weights, np.ascontiguousarray(small), *window, np.float32(self.unit), out)
        return out


def cell_of_pixels(pixels: int, cells: int) -> NDArray[np.int32]:
    """Cell that holds each pixel's center along one axis, int32 [pixels], values in [0, cells)."""
    return np.asarray(cell_of(np.arange(pixels), pixels, cells), np.int32)


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
        sigma_spatial: Standard deviation in cells.
        sigma_range: Standard deviation for RGB in [0, 1].
        radius: Reach of the window, in cells, ≥ 1.
        samples: Guidance samples per side of a cell; 0 for every pixel.
    """
    rows = _axis(rgb.shape[0], height, samples, radius, sigma_spatial)
    cols = _axis(rgb.shape[1], width, samples, radius, sigma_spatial)
    weights = kernel.build(rgb, rows, cols, radius, 255.0 * sigma_range)
    first_row, first_col = rows.cell_of_pixel - np.int32(radius), cols.cell_of_pixel - np.int32(radius)
    side = 2 * radius + 1
    return JointBilateral(weights, height, width, first_row, first_col, (side, side), 1.0 / kernel.FULL)


def _axis(pixels: int, cells: int, samples: int, radius: int, sigma: float) -> kernel.Axis:
    """One axis of the separable part: which samples there are, and how strongly each pixel sees them."""
    cell_of_pixel = cell_of_pixels(pixels, cells)
    position, share = _sample_positions(cell_of_pixel, samples)
    distance = (position[:, None] - np.arange(pixels)[None, :]) * (cells / pixels)  # [samples, pixels], in cells
    gaussian = np.exp(-0.5 * (distance / sigma) ** 2) * share[:, None]
    return kernel.Axis(
        cell_of_pixel=cell_of_pixel,
        first_pixel=np.searchsorted(cell_of_pixel, np.arange(cells + 1)),
        position=position,
        first_sample=np.searchsorted(cell_of_pixel[position], np.arange(cells + 1)),
        weight=np.where(np.abs(distance) <= radius, gaussian, 0.0).astype(np.float32),
    )


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
