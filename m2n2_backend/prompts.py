"""Prompts as value types: clicks and a box, in pixels of the natural image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from m2n2_backend.errors import InvalidPrompt


@dataclass(frozen=True, slots=True)
class Click:
    """A prompt point.

    Attributes:
        x: Column in pixels of the natural (EXIF-transposed) image, 0 ≤ x < width; the pixel's index.
        y: Row in pixels, 0 ≤ y < height.
        positive: True for foreground (y_i = 1 in the paper), False for background.
    """

    x: int
    y: int
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """A box prompt: the object lies inside.

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


@dataclass(frozen=True, slots=True)
class Prompts:
    """Everything the user pointed at for one object.

    Attributes:
        clicks: In the order in which they were made; may be empty where there are boxes.
        boxes: Mostly none or one; several mean one object made of several parts.
    """

    clicks: tuple[Click, ...] = ()
    boxes: tuple[Box, ...] = ()

    def validate(self, width: int, height: int) -> None:
        """Check the prompts against an image of ``width`` × ``height`` pixels.

        Raises:
            InvalidPrompt: A click or box lies outside the image, a box is empty, or nothing is foreground.
        """
        self.check_inside(width, height)
        if not self.boxes and not any(click.positive for click in self.clicks):
            raise InvalidPrompt("no foreground prompt: place a positive key point or a rectangle first")

    def check_inside(self, width: int, height: int) -> None:
        """Check that everything lies in an image of ``width`` × ``height`` pixels.

        Raises:
            InvalidPrompt: A click or box lies outside the image, or a box is empty.
        """
        for click in self.clicks:
            if not (0 <= click.x < width and 0 <= click.y < height):
                raise InvalidPrompt(f"click ({click.x}, {click.y}) is outside the {width}x{height} image")
        for box in self.boxes:
            if box.x1 <= box.x0 or box.y1 <= box.y0:
                raise InvalidPrompt(f"box ({box.x0}, {box.y0}, {box.x1}, {box.y1}) is empty")
            if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
                raise InvalidPrompt(
                    f"box ({box.x0}, {box.y0}, {box.x1}, {box.y1}) is outside the {width}x{height} image"
                )


def pixel_from_percent(percent: float, size: int) -> int:
    """Index of the pixel that holds a coordinate given in percent of an axis of ``size`` pixels.

    Label Studio's 100 % is the far edge of the last pixel, so it belongs to that pixel.

    Raises:
        InvalidPrompt: ``percent`` is not finite or not within [0, 100].
    """
    if not math.isfinite(percent) or not 0.0 <= percent <= 100.0:
        raise InvalidPrompt(f"coordinate {percent}% is outside the image (0 to 100)")
    return min(int(percent * size / 100.0), size - 1)


def end_from_percent(percent: float, size: int) -> int:
    """Exclusive end of the pixels that lie before a coordinate in percent: the far edge of a box.

    A pixel that is covered in part counts; at least one pixel always lies before the end.

    Raises:
        InvalidPrompt: ``percent`` is not finite or not within [0, 100].
    """
    pixel_from_percent(percent, size)
    # Rounding first: 55 % of 100 pixels is 55.00000000000001 in floating point, not 56 pixels.
    return min(max(math.ceil(round(percent * size / 100.0, 6)), 1), size)
