"""Prompts as Label Studio's editor sends them, one class per kind: each turns itself from percent into pixels."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.labelstudio.contract.reading import Degrees, Model, Side, Text, Texts, Whole
from m2n2_backend.prompts import (
    MOST_CORNERS,
    Box,
    Click,
    PointPrompt,
    Polygon,
    Region,
)
from m2n2_backend.rasters import end_from_percent, pixel_from_percent

_MOST_PAGES = 1_000_000
# Label Studio adds x and width as floating point numbers, each rounded on its own.
_SLACK_PERCENT = 0.01
_ROUNDING_PERCENT = 1e-6


def _pair(value: object) -> object:
    if isinstance(value, list) and len(value) == 2:
        return tuple(value)
    raise PydanticCustomError("pair", "must be a list of two numbers")


Corner = Annotated[tuple[float, float], BeforeValidator(_pair)]
_Held = Annotated[Texts | None, BeforeValidator(lambda value: value or None)]


class Value(Model):
    """What every prompt's value may hold: its labels, under the name of its control's type or as ``labels``."""

    labels: _Held = None
    keypointlabels: _Held = None
    rectanglelabels: _Held = None
    brushlabels: _Held = None
    bitmasklabels: _Held = None
    ellipselabels: _Held = None
    polygonlabels: _Held = None

    def labels_of(self, type: str) -> list[str]:
        """The labels under the name of an item's type; where there are none, those under another name."""
        own = getattr(self, type.lower()) if type.lower() in LABEL_KEYS else None
        return own or next((found for key in LABEL_KEYS if (found := getattr(self, key))), [])


LABEL_KEYS = tuple(Value.model_fields)
"""Where a value holds its labels."""


class DrawnItem(Model):
    """One drawn prompt. A further kind is a further class, listed in ``models.KINDS``.

    Attributes:
        names: The kind's ``type`` in lower case, with labels and without.
        may_be_mask: Whether regions of this kind may show masks, too: those of a control that is not smart are then
            passed over unread.
        is_object: Whether one such prompt encloses an object; other prompts of one label are one object together.
    """

    names: ClassVar[tuple[str, str]]
    may_be_mask: ClassVar[bool] = True
    is_object: ClassVar[bool] = True

    from_name: Text
    to_name: Text | None = None
    id: Text | None = None
    is_positive: bool | None = None
    item_index: Annotated[Whole, Field(ge=0, le=_MOST_PAGES)] | None = None
    original_width: Side
    original_height: Side
    image_rotation: Degrees = 0.0
    type: Text
    value: Value

    @property
    def corners(self) -> int:
        """The number of corners that were drawn one by one."""
        return 0

    @abstractmethod
    def prompt(self, width: int, height: int) -> PointPrompt | Region:
        """The prompt in pixels of an image of ``width`` × ``height`` pixels.

        Raises:
            InvalidPrompt: It is empty, or it cannot be read.
        """


class PointValue(Value):
    """The place of a key point, in percent of the image's sides, from its top-left corner."""

    x: float
    y: float


class KeyPoint(DrawnItem):
    """A click with ``<KeyPoint>`` or ``<KeyPointLabels>``; Alt makes it a background click."""

    names = ("keypointlabels", "keypoint")
    may_be_mask = False
    is_object = False

    type: Annotated[Text, WithJsonSchema({"enum": list(names)})]
    value: PointValue

    def prompt(self, width: int, height: int) -> Click:
        """See :meth:`DrawnItem.prompt`."""
        x = pixel_from_percent(_on_border(self.value.x, _ROUNDING_PERCENT), width)
        y = pixel_from_percent(_on_border(self.value.y, _ROUNDING_PERCENT), height)
        return Click(x, y, self.is_positive is not False)


class RectangleValue(Value):
    """A rectangle in percent, turned clockwise about its top-left corner by degrees."""

    x: float
    y: float
    width: float
    height: float
    rotation: Degrees = 0.0


class Rectangle(DrawnItem):
    """A box drawn with ``<Rectangle>`` or ``<RectangleLabels>``; a turned one is a polygon."""

    names = ("rectanglelabels", "rectangle")
    may_be_mask = False

    type: Annotated[Text, WithJsonSchema({"enum": list(names)})]
    value: RectangleValue

    def prompt(self, width: int, height: int) -> Region:
        """See :meth:`DrawnItem.prompt`."""
        value = self.value
        if value.width <= 0 or value.height <= 0:
            raise InvalidPrompt(f"the rectangle is empty ({value.width}% by {value.height}%)")
        if value.rotation % 360:
            return self._turned(width, height)
        left, top, right, bottom = value.x, value.y, value.x + value.width, value.y + value.height
        left, top, right, bottom = (_on_border(side, _SLACK_PERCENT) for side in (left, top, right, bottom))
        return Box(
            pixel_from_percent(left, width),
            pixel_from_percent(top, height),
            end_from_percent(right, width),
            end_from_percent(bottom, height),
        )

    def _turned(self, width: int, height: int) -> Polygon:
        value, turn = self.value, math.radians(self.value.rotation)
        x, y, right, down = (
            part * side / 100
            for part, side in ((value.x, width), (value.y, height), (value.width, width), (value.height, height))
        )
        corners = ((0.0, 0.0), (right, 0.0), (right, down), (0.0, down))
        cos, sin = math.cos(turn), math.sin(turn)
        return Polygon(
            tuple((x + across * cos - below * sin, y + across * sin + below * cos) for across, below in corners)
        )


class EllipseValue(Value):
    """An ellipse about its center in percent, turned clockwise about it by degrees."""

    x: float
    y: float
    radius_x: float = Field(alias="radiusX")
    radius_y: float = Field(alias="radiusY")
    rotation: Degrees = 0.0


class Ellipse(DrawnItem):
    """A region drawn with ``<Ellipse>`` or ``<EllipseLabels>``."""

    names = ("ellipselabels", "ellipse")

    value: EllipseValue

    def prompt(self, width: int, height: int) -> Polygon:
        """See :meth:`DrawnItem.prompt`."""
        value = self.value
        if value.radius_x <= 0 or value.radius_y <= 0:
            raise InvalidPrompt(f"the ellipse is empty ({value.radius_x}% by {value.radius_y}%)")
        # Percent of both sides are different lengths, and the ellipse is turned in pixels.
        x, radius_x = (part * width / 100 for part in (value.x, value.radius_x))
        y, radius_y = (part * height / 100 for part in (value.y, value.radius_y))
        return Polygon.ellipse(x, y, radius_x, radius_y, value.rotation)


class PolygonValue(Value):
    """The corners of a polygon, in percent."""

    points: Annotated[list[Corner], Field(max_length=MOST_CORNERS, fail_fast=True)]


class DrawnPolygon(DrawnItem):
    """A region drawn with ``<Polygon>`` or ``<PolygonLabels>``."""

    names = ("polygonlabels", "polygon")

    value: PolygonValue

    @property
    def corners(self) -> int:
        """See :attr:`DrawnItem.corners`."""
        return len(self.value.points)

    def prompt(self, width: int, height: int) -> Polygon:
        """See :meth:`DrawnItem.prompt`."""
        return Polygon(tuple((x * width / 100, y * height / 100) for x, y in self.value.points))


def _on_border(percent: float, slack: float) -> float:
    """A coordinate; one that lies outside by no more than rounding does is moved onto the border."""
    is_close = -slack < percent <= 100 + slack
    return min(max(percent, 0.0), 100.0) if is_close else percent
