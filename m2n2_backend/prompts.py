"""Prompts as value types: clicks, scribbles, boxes and polygons, in pixels of the natural image."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from m2n2_backend import rasters
from m2n2_backend.errors import InvalidPrompt

MAX_PROMPTS = 64
"""Prompts of one object: clicks, scribbles, boxes and polygons together. Evaluations end with the 20th click."""

MOST_CORNERS = 10_000
"""Corners of all polygons of one object; in the editor each corner is one click."""

MOST_TOGETHER = 256
"""Boxes and polygons times clicks of one object, as each click recomputes every box: 8 and 31, or 5 and 50."""

_FARTHEST = 50_000
_FARTHEST_CORNER = 1e9


@dataclass(frozen=True, slots=True)
class Click:
    """A prompt point.

    Attributes:
        x: Column of the pixel in the natural (EXIF-transposed) image, 0 ≤ x < width. A float is rounded down.
        y: Row of the pixel, 0 ≤ y < height. A float is rounded down.
        positive: True for foreground (y_i = 1 in the paper), False for background.
    """

    x: int
    y: int
    positive: bool = True

    def __post_init__(self) -> None:
        _round_down(self, "x", "y")


@dataclass(frozen=True, slots=True)
class Box:
    """A box prompt: the object lies inside. Floats are rounded down.

    Attributes:
        x0: Left column, inclusive.
        y0: Top row, inclusive.
        x1: Right column, exclusive; x1 > x0.
        y1: Bottom row, exclusive; y1 > y0.
    """

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        _round_down(self, "x0", "y0", "x1", "y1")


@dataclass(frozen=True, slots=True)
class Scribble:
    """A brush stroke: one prompt of many pixels, all of them foreground or all background.

    Attributes:
        x0: Left column of the pixels' bounding box.
        y0: Top row of the box.
        width: Columns of the box.
        height: Rows of the box.
        packed: Bits of the rows, eight pixels to a byte, from the column ``x0 // 8 * 8`` on, compressed by zlib.
        positive: True for foreground, False for background.
    """

    x0: int
    y0: int
    width: int
    height: int
    packed: bytes
    positive: bool = True

    @staticmethod
    def of(mask: NDArray[np.bool_], positive: bool = True) -> Scribble:
        """The scribble that covers the pixels of a mask, bool [H, W]; in a mask of another type, all but zeros.

        Raises:
            InvalidPrompt: The mask is empty, or has no rows and columns.
        """
        mask = np.asarray(mask).astype(np.bool_)
        if mask.ndim != 2:
            raise InvalidPrompt(f"the mask of a scribble must have the shape [H, W], not {list(mask.shape)}")
        return Scribble.of_bits(np.packbits(mask, axis=1), positive)

    @staticmethod
    def of_bits(bits: NDArray[np.uint8], positive: bool = True) -> Scribble:
        """The scribble of a mask's bits, ``np.packbits(mask, axis=1)``: uint8 [H, ceil(W / 8)].

        Raises:
            InvalidPrompt: No bit is set.
        """
        rows = np.flatnonzero(bits.any(axis=1))
        if not rows.size:
            raise InvalidPrompt("the scribble covers no pixel")
        cols = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(bits, axis=0)))
        top, left, height, width = int(rows[0]), int(cols[0]), int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1
        part = bits[top : top + height, left // 8 : (left + width + 7) // 8]
        return Scribble(left, top, width, height, zlib.compress(part.tobytes(), level=1), positive)

    @staticmethod
    def along(points: Sequence[tuple[int, int]], width: int = 5, positive: bool = True) -> Scribble:
        """A stroke of ``width`` pixels through points (x, y); parts left of the image or above it are cut off.

        Raises:
            InvalidPrompt: No pixel is left, or a point is not two finite numbers.
        """
        try:
            places = np.floor(np.array(points, np.float64).reshape(-1, 2))
        except (TypeError, ValueError) as error:
            raise InvalidPrompt(f"the points of a scribble must be pairs of numbers (x, y): {error}") from error
        if not (np.abs(places) <= _FARTHEST).all():
            raise InvalidPrompt(f"a point of the scribble is not within {_FARTHEST} pixels of the image's corner")
        return Scribble.of(rasters.line_through(places.astype(np.int32), width), positive)

    def pixels(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of the pixels, at least one."""
        rows, cols = np.nonzero(np.unpackbits(self._bits(), axis=1))
        return rows + self.y0, cols + self.x0 // 8 * 8

    def mask(self, size: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels in which a pixel of the scribble has its center, bool [h, w].

        The raster of the shape (h, w) is laid over the image of the size (H, W), in which the scribble must lie.
        """
        return rasters.stroke_on(self._bits(), (self.y0, self.x0 // 8 * 8), size, shape)

    def _bits(self) -> NDArray[np.uint8]:
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.height, -1)


@dataclass(frozen=True, slots=True)
class Polygon:
    """A box of another shape: the object lies inside.

    Attributes:
        points: Corners (x, y), at least three, in pixels from the image's top-left corner; the last one is joined to
            the first, and where the outline crosses itself the even-odd rule counts.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        # A list of lists is accepted too, but has no hash.
        with contextlib.suppress(TypeError, ValueError):
            object.__setattr__(self, "points", tuple((float(x), float(y)) for x, y in self.points))

    @staticmethod
    def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> Polygon:
        """An ellipse about (x, y), turned clockwise: 128 corners, whose outline is within 0.03 % of the radius."""
        angle = np.linspace(0.0, 2.0 * np.pi, 128, endpoint=False)
        turn = math.radians(degrees)
        across, down = radius_x * np.cos(angle), radius_y * np.sin(angle)
        xs = x + across * math.cos(turn) - down * math.sin(turn)
        ys = y + across * math.sin(turn) + down * math.cos(turn)
        return Polygon(tuple(zip(xs.tolist(), ys.tolist(), strict=True)))

    def mask(self, size: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels whose center lies inside, bool [h, w]; if there are none, the pixel at the mean of the corners.

        The raster of the shape (h, w) is laid over the image of the size (H, W).
        """
        near = np.array(self.points).clip(-_FARTHEST_CORNER, _FARTHEST_CORNER)
        corners = near * (shape[1] / size[1], shape[0] / size[0])
        inside = rasters.inside_polygon(corners, shape)
        if not inside.any():
            col, row = corners.mean(axis=0).astype(np.intp).clip(0, (shape[1] - 1, shape[0] - 1))
            inside[row, col] = True
        return inside


PointPrompt: TypeAlias = Click | Scribble
"""A prompt that labels certain pixels as object or background."""

Region: TypeAlias = Box | Polygon
"""A prompt inside of which the object lies."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """All prompts for one object.

    Attributes:
        clicks: Clicks and scribbles in the order in which they were made; may be empty if there are boxes.
        boxes: Boxes and polygons, mostly none or one; several mean one object made of several parts.
    """

    clicks: tuple[PointPrompt, ...] = ()
    boxes: tuple[Region, ...] = ()

    def validate(self, width: int, height: int) -> None:
        """Check the prompts against an image of ``width`` × ``height`` pixels.

        Raises:
            InvalidPrompt: There are too many prompts, one lies outside the image, a box or polygon is empty, or
                nothing is foreground.
        """
        self.require_few()
        self.check_inside(width, height)
        if not self.boxes and not any(click.positive for click in self.clicks):
            raise InvalidPrompt("no foreground prompt: place a positive key point or a rectangle first")

    def require_few(self) -> None:
        """Refuse, with InvalidPrompt, more prompts than can be answered without keeping other users waiting."""
        regions = len(self.boxes)
        count = len(self.clicks) + regions
        if count > MAX_PROMPTS:
            raise InvalidPrompt(
                f"{count} prompts for one object, and at most {MAX_PROMPTS} are allowed: delete some, or accept the "
                "mask and draw the rest as another object"
            )
        corners = sum(len(box.points) for box in self.boxes if isinstance(box, Polygon))
        if corners > MOST_CORNERS:
            raise InvalidPrompt(f"polygons of {corners} corners for one object: draw at most {MOST_CORNERS} in all")
        if regions * (1 + len(self.clicks)) > MOST_TOGETHER:
            raise InvalidPrompt(
                f"{regions} boxes or polygons and {len(self.clicks)} clicks for one object are too many together: "
                f"with so many boxes click at most {MOST_TOGETHER // regions - 1} times, or finish the object first"
            )

    def check_inside(self, width: int, height: int) -> None:
        """Check that everything lies in an image of ``width`` × ``height`` pixels.

        Raises:
            InvalidPrompt: A prompt lies outside the image, or a box or polygon is empty.
        """
        for click in self.clicks:
            if isinstance(click, Click):
                _require_pixels(click, "x", "y")
                if click.positive not in (True, False):
                    raise InvalidPrompt(f"positive of a Click must be True or False, not {click.positive!r}")
                words, inside = f"click ({click.x}, {click.y})", 0 <= click.x < width and 0 <= click.y < height
            elif isinstance(click, Scribble):
                words = f"scribble at ({click.x0}, {click.y0})"
                inside = 0 <= click.x0 <= width - click.width and 0 <= click.y0 <= height - click.height
            else:
                raise InvalidPrompt(f"a prompt must be a Click or a Scribble, not {type(click).__name__}")
            if not inside:
                raise InvalidPrompt(f"{words} is outside the {width}x{height} image")
        for box in self.boxes:
            if isinstance(box, Box):
                _check_box(box, width, height)
            elif isinstance(box, Polygon):
                _check_polygon(box, width, height)
            else:
                raise InvalidPrompt(f"a box must be a Box or a Polygon, not {type(box).__name__}")


def _round_down(prompt: Click | Box, *names: str) -> None:
    """Convert numbers of any kind to pixels; numbers that are not finite are refused when the image is known."""
    for name in names:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            object.__setattr__(prompt, name, int(math.floor(getattr(prompt, name))))  # noqa: RUF046 - PyTorch's numbers


def _require_pixels(prompt: Click | Box, *names: str) -> None:
    for name in names:
        if not isinstance(value := getattr(prompt, name), int):
            raise InvalidPrompt(f"{name} of a {type(prompt).__name__} must be a finite number, not {value!r}")


def _check_box(box: Box, width: int, height: int) -> None:
    _require_pixels(box, "x0", "y0", "x1", "y1")
    words = f"box ({box.x0}, {box.y0}, {box.x1}, {box.y1})"
    if box.x1 <= box.x0 or box.y1 <= box.y0:
        raise InvalidPrompt(f"{words} is empty")
    if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
        raise InvalidPrompt(f"{words} is outside the {width}x{height} image")


def _check_polygon(polygon: Polygon, width: int, height: int) -> None:
    """Check a polygon; a part may lie outside the image, as a turned rectangle's corner may."""
    try:
        xs, ys = np.array(polygon.points, np.float64).reshape(len(polygon.points), 2).T
    except (TypeError, ValueError) as error:
        raise InvalidPrompt(f"the corners of a Polygon must be pairs of numbers (x, y): {error}") from error
    if len(set(polygon.points)) < 3 or not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise InvalidPrompt("a polygon needs three corners or more, and all of them finite numbers")
    if max(np.abs(xs).max(), np.abs(ys).max()) > _FARTHEST_CORNER:
        raise InvalidPrompt(f"a corner of the shape is too far outside the {width}x{height} image")
    if np.ptp(xs) <= 0 or np.ptp(ys) <= 0:
        raise InvalidPrompt("the shape is empty")
    if xs.max() <= 0 or ys.max() <= 0 or xs.min() >= width or ys.min() >= height:
        raise InvalidPrompt(f"the shape lies outside the {width}x{height} image")
