"""Rasters of pixels: changing their size, windows of them, and strokes and polygons laid over them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.errors import InvalidPrompt

_BLOCK = 2**19
"""Pixels of the raster, and crossings of edges and rows, that are processed at a time."""

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a part of a raster."""


@dataclass(frozen=True)
class PackedMask:
    """A mask, bool [H, W], with eight pixels to a byte: those of the box about the foreground.

    Attributes:
        packed: uint8 [n, ceil(m / 8)] of the box's n rows and m columns, the first pixel of a row in the highest bit.
        shape: (H, W).
        box: Its rows and columns.
    """

    packed: NDArray[np.uint8]
    shape: tuple[int, int]
    box: Window

    @staticmethod
    def of(mask: NDArray[np.bool_]) -> PackedMask:
        """Pack bool [H, W]."""
        box = window_around(mask) or (slice(0, 0), slice(0, 0))
        return PackedMask(np.packbits(mask[box], axis=1), (mask.shape[0], mask.shape[1]), box)

    def unpacked(self) -> NDArray[np.bool_]:
        """The mask, a new bool [H, W]."""
        mask = np.zeros(self.shape, np.bool_)
        cols = self.box[1]
        mask[self.box] = np.unpackbits(self.packed, axis=1, count=cols.stop - cols.start).view(np.bool_)
        return mask


def cell_of(pixel: Any, pixels: int, cells: int) -> Any:
    """Which of the ``cells`` along one axis holds the center of a pixel: the one rule for every change of raster.

    Args:
        pixel: Index in [0, pixels), or an array of them.
        pixels: Number of pixels along the axis.
        cells: Number of cells of the attention along the axis, or of pixels of a smaller or larger copy.

    Returns:
        Index in [0, cells), or an array of them.
    """
    return (2 * pixel + 1) * cells // (2 * pixels)


def pixel_from_percent(percent: float, size: int) -> int:
    """Index of the pixel that holds a coordinate given in percent of an axis of ``size`` pixels.

    100 % is the far edge of the last pixel in Label Studio, so it belongs to that pixel.

    Raises:
        InvalidPrompt: ``percent`` is not finite or not within [0, 100].
    """
    if not math.isfinite(percent) or not 0.0 <= percent <= 100.0:
        raise InvalidPrompt(f"coordinate {percent}% is outside the image (0 to 100)")
    return min(int(percent * size / 100.0), size - 1)


def end_from_percent(percent: float, size: int) -> int:
    """Exclusive end of the pixels that lie before a coordinate in percent: the far edge of a box.

    A pixel that is covered in part counts, and at least one pixel lies before the end.

    Raises:
        InvalidPrompt: ``percent`` is not finite or not within [0, 100].
    """
    pixel_from_percent(percent, size)
    # Rounding first: 55 % of 100 pixels is 55.00000000000001 in floating point, not 56 pixels.
    return min(max(math.ceil(round(percent * size / 100.0, 6)), 1), size)


def reduced(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Reduce a photograph, uint8 [H, W, 3], to ``longest`` pixels a side; a smaller one is returned itself."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1.0:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def enlarged(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask, bool [h, w], at another (H, W) with rounded corners; a mask of that size is returned itself."""
    if mask.shape == size:
        return mask
    soft = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft > 0.5)


def rows_of(mask: NDArray[np.bool_]) -> slice:
    """The rows of a mask, bool [H, W], from the first to the last with foreground; none if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)


def window_around(mask: NDArray[np.bool_], margin: float = 0.0) -> Window | None:
    """The bounding box of a mask, bool [H, W], with a margin in pixels; None if the mask is empty."""
    down = rows_of(mask)
    if down.start == down.stop:
        return None
    cols = np.flatnonzero(mask[down].any(axis=0))
    return widened((down, slice(int(cols[0]), int(cols[-1]) + 1)), margin)


def widened(window: Window, margin: float) -> Window:
    """The window with ``margin`` more pixels on each side; it may reach beyond the image's last row and column."""
    reach = math.ceil(margin)
    down, across = (slice(max(0, side.start - reach), side.stop + reach) for side in window)
    return down, across


def line_through(points: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
    """A line of ``width`` pixels through points (x, y), [n, 2], on a raster that just holds it, bool [h, w].

    Parts left of the raster or above it are cut off; without points the raster has no pixels.
    """
    canvas = np.zeros((np.maximum(points.max(axis=0), 0) + width)[::-1] if points.size else (0, 0), np.uint8)
    cv2.polylines(canvas, [points], isClosed=False, color=1, thickness=width)
    return canvas.view(np.bool_)


def stroke_on(
    bits: NDArray[np.uint8], corner: tuple[int, int], size: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """The pixels of a raster in which a pixel of a stroke has its center.

    Args:
        bits: A part of the photograph, uint8 [n, ceil(m / 8)]: eight pixels of a row to a byte, the first one in the
            highest bit.
        corner: Row and column of the part's first pixel.
        size: (H, W) of the photograph. Bits beyond it must be 0.
        shape: (h, w) of the raster that is laid over the photograph.

    Returns:
        bool [h, w].
    """
    rows, firsts = _places(corner[0], len(bits), size[0], shape[0])
    cols, starts = _places(corner[1], min(8 * bits.shape[1], size[1] - corner[1]), size[1], shape[1])
    # Rows first, while eight pixels are one byte.
    few = np.unpackbits(np.bitwise_or.reduceat(bits, firsts, axis=0), axis=1)
    covered = np.zeros(shape, np.bool_)
    covered[np.ix_(rows, cols)] = np.bitwise_or.reduceat(few[:, : size[1] - corner[1]], starts, axis=1)
    return covered


def _places(first: int, count: int, size: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows of the raster that ``count`` rows from ``first`` on lie in, and where in these each one begins."""
    places = cell_of(np.arange(first, first + count), size, wanted)
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    return places[starts], starts


def inside_polygon(corners: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose center lies inside by the even-odd rule.

    Args:
        corners: (x, y) in pixels of the raster, [n, 2], n ≥ 1, finite and no further than some billions from it.
        shape: (h, w) of the raster.

    Returns:
        bool [h, w].
    """
    height, width = shape
    (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
    # An edge crosses the rows whose center lies between its ends, the upper end included.
    low, high = (
        np.ceil(ends - 0.5).clip(0, height).astype(np.intp) for ends in (np.minimum(y0, y1), np.maximum(y0, y1))
    )
    with np.errstate(all="ignore"):  # those that cross no row may be level
        slope = (x1 - x0) / (y1 - y0)
    inside = np.zeros(shape, np.bool_)
    step = max(1, _BLOCK // max(width + 1, len(corners)))
    for top in range(0, height, step):
        bottom = min(top + step, height)
        first = low.clip(top, bottom)
        count = high.clip(top, bottom) - first
        edge = np.repeat(np.arange(len(corners)), count)
        row = np.arange(edge.size) - np.repeat(np.cumsum(count) - count - first, count)
        x = x0[edge] + (row + 0.5 - y0[edge]) * slope[edge]
        place = (row - top) * (width + 1) + np.ceil(x - 0.5).clip(0, width).astype(np.intp)
        crossed = np.bincount(place, minlength=(bottom - top) * (width + 1)).reshape(-1, width + 1) % 2 == 1
        inside[top:bottom] = np.logical_xor.accumulate(crossed[:, :-1], axis=1)
    return inside
