"""A view, the window of a photograph that is encoded for itself, and the small set that views come from.

Objects near each other share a view, and caches find it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.prompts import Box, Click, PointPrompt, Prompts, Region, Scribble
from m2n2_backend.rasters import Window

LEAST_SIDE = 440
"""Longest side of the smallest view that a click chooses, in pixels of the photograph; below it the model sees
enlarged blur only. The first mask of small objects in photographs of 640 × 480 has a mean IoU of 0.50, in views of
half the side 0.41."""

BOX_LEAST_SIDE = 240
"""Least sides of a view that a box chooses, which knows the object's size."""

AROUND_BOX = 1.7
"""Sides of a box's view, in sides of the box, before they are snapped, which changes them by a fifth at most. Mean
IoU of the boxes in mosaics (see the evaluation's README): 0.909, without views 0.722; with a view of the photograph's
shape and twice the box's longer side 0.845."""

AROUND_STROKE = 1.5
"""Sides of the object, in sides of a stroke on it: people draw strokes inside of the object."""

_STRIDES = 2  # positions of a click's view within its own side, so that its click is in its middle half
_BOX_STRIDES = 8  # positions of a box's view likewise: the box stays near its center
_THINNEST_CLICK = 1 / 2  # shorter side of a click's view, in longer sides, unless the photograph ends there
_THINNEST = 1 / 3  # shorter side of a box's view, in longer sides
_BOX_SIZES = 2  # sizes of a box's view to a factor of 2


@dataclass(frozen=True, order=True)
class View:
    """A window of the photograph, in its pixels.

    Attributes:
        top: First row.
        left: First column.
        height: Number of rows.
        width: Number of columns.
    """

    top: int
    left: int
    height: int
    width: int

    @staticmethod
    def whole(size: tuple[int, int]) -> View:
        """All of a photograph of (H, W) pixels."""
        return View(0, 0, *size)

    def __str__(self) -> str:
        """Left and top corner and size, as caches name it: ``480,0-962x642``."""
        return f"{self.left},{self.top}-{self.width}x{self.height}"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the view."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Number of its pixels."""
        return self.height * self.width

    @property
    def corner_and_size(self) -> list[int]:
        """Left, top, width and height."""
        return [self.left, self.top, self.width, self.height]

    @property
    def window(self) -> Window:
        """Its rows and columns in the photograph."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def crop(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Its pixels of a photograph, uint8 [H, W, 3]."""
        return np.ascontiguousarray(rgb[self.window])

    def placed(self, mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
        """A mask of the view, bool [h, w], in a photograph of (H, W) pixels; nothing is foreground elsewhere."""
        if mask.shape == size:
            return mask
        full = np.zeros(size, np.bool_)
        full[self.window] = mask
        return full

    def holds(self, bounds: Bounds) -> bool:
        """Whether a prompt lies in it."""
        return (
            self.left <= bounds.left
            and self.top <= bounds.top
            and bounds.right <= self.left + self.width
            and bounds.bottom <= self.top + self.height
        )

    def prompts(self, prompts: Prompts) -> Prompts:
        """The prompts in pixels of the view, without the clicks and pixels that lie outside of it."""
        moved = (self.click(each) for each in prompts.clicks)
        return Prompts(tuple(each for each in moved if each is not None), self.regions(prompts.boxes))

    def regions(self, regions: Sequence[Region]) -> tuple[Region, ...]:
        """Boxes, cut off at the view's border, and polygons in pixels of the view."""
        return tuple(self._region(each) for each in regions)

    def click(self, prompt: PointPrompt) -> PointPrompt | None:
        """A click or scribble in pixels of the view, without what lies outside of it; None if nothing is left."""
        if isinstance(prompt, Click):
            inside = self.holds(bounds_of(prompt))
            return Click(prompt.x - self.left, prompt.y - self.top, prompt.positive) if inside else None
        if (self.top, self.left) == (0, 0) and self.holds(bounds_of(prompt)):
            return prompt
        rows, cols = prompt.pixels()
        rows, cols = rows - self.top, cols - self.left
        mask = np.zeros(self.size, np.bool_)
        held = (rows >= 0) & (rows < self.height) & (cols >= 0) & (cols < self.width)
        if not held.any():
            return None
        mask[rows[held], cols[held]] = True
        return Scribble.of(mask, prompt.positive)

    def _region(self, region: Region) -> Region:
        if isinstance(region, Box):
            left, top = max(region.x0 - self.left, 0), max(region.y0 - self.top, 0)
            return Box(left, top, min(region.x1 - self.left, self.width), min(region.y1 - self.top, self.height))
        return type(region)(tuple((x - self.left, y - self.top) for x, y in region.points))


@dataclass(frozen=True)
class Bounds:
    """The box about something in the photograph, in its pixels; right and bottom are exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    def joined(self, other: Bounds) -> Bounds:
        """The box about both."""
        return Bounds(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def widened(self, factor: float) -> Bounds:
        """A box with the same center and ``factor`` times the sides."""
        x, y = (factor - 1.0) / 2 * (self.right - self.left), (factor - 1.0) / 2 * (self.bottom - self.top)
        return Bounds(self.left - x, self.top - y, self.right + x, self.bottom + y)


def bounds_of(prompt: PointPrompt | Region) -> Bounds:
    """The box about a prompt."""
    if isinstance(prompt, Click):
        return Bounds(prompt.x, prompt.y, prompt.x + 1, prompt.y + 1)
    if isinstance(prompt, Scribble):
        return Bounds(prompt.x0, prompt.y0, prompt.x0 + prompt.width, prompt.y0 + prompt.height)
    if isinstance(prompt, Box):
        return Bounds(prompt.x0, prompt.y0, prompt.x1, prompt.y1)
    xs, ys = np.array(prompt.points).T
    return Bounds(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))


def joined(prompts: Sequence[PointPrompt | Region], size: tuple[int, int]) -> Bounds:
    """The box about some prompts, at least one, within a photograph of (H, W) pixels."""
    first, *others = (bounds_of(each) for each in prompts)
    for each in others:
        first = first.joined(each)
    return Bounds(max(first.left, 0), max(first.top, 0), min(first.right, size[1]), min(first.bottom, size[0]))


def finest_level(size: tuple[int, int]) -> int:
    """The last level at which views have at least ``LEAST_SIDE`` pixels; level l has sides of 1/2^l."""
    return max(0, math.floor(math.log2(max(size) / LEAST_SIDE)))


def view_about(size: tuple[int, int], bounds: Bounds, level: int) -> View:
    """The view of a level in whose middle a prompt lies best; the whole photograph at level 0."""
    long = 2.0**-level * max(size)
    # A view of a panorama is less elongated than the whole: the model would see a strip.
    height, width = (min(side, round(max(2.0**-level * side, _THINNEST_CLICK * long))) for side in size)
    top = _nearest((bounds.top + bounds.bottom) / 2, height, size[0], _STRIDES)
    left = _nearest((bounds.left + bounds.right) / 2, width, size[1], _STRIDES)
    return View(top, left, height, width)


def view_of_box(size: tuple[int, int], bounds: Bounds) -> View:
    """The view for an object in a box: somewhat larger than it, of one of a few sizes and positions."""
    sides = bounds.bottom - bounds.top, bounds.right - bounds.left
    least = max(BOX_LEAST_SIDE, _THINNEST * AROUND_BOX * max(sides))
    height, width = (_snapped(max(least, AROUND_BOX * side), whole) for side, whole in zip(sides, size, strict=True))
    top = _nearest((bounds.top + bounds.bottom) / 2, height, size[0], _BOX_STRIDES)
    left = _nearest((bounds.left + bounds.right) / 2, width, size[1], _BOX_STRIDES)
    return View(top, left, height, width)


def _snapped(wanted: float, whole: int) -> int:
    """The side of a box's view that is nearest to the wanted one, in pixels."""
    steps = max(0, round(_BOX_SIZES * math.log2(whole / wanted)))
    return max(1, round(whole * math.pow(2.0, -steps / _BOX_SIZES)))


def view_of_stroke(size: tuple[int, int], bounds: Bounds, factor: float = AROUND_STROKE) -> View:
    """The view for an object that has ``factor`` times the sides of a stroke on it."""
    return view_of_box(size, bounds.widened(factor))


def _nearest(center: float, side: int, whole: int, strides: int) -> int:
    """Where the side begins whose middle is nearest to a point, among the positions."""
    stride = side / strides
    first = round(round((center - side / 2) / stride) * stride)
    return min(max(0, first), whole - side)
