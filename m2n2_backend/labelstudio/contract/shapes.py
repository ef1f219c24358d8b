"""Label Studio's strokes and shapes as they are sent → scribbles and polygons, in pixels."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.labelstudio.contract.models import (
    BITMASKS,
    BRUSHES,
    ELLIPSES,
    POLYGONS,
    Degrees,
    DrawnItem,
    Rectangle,
    Shape,
    Text,
    Value,
    read,
)
from m2n2_backend.labelstudio.contract.strokes import alpha_of_code, alpha_of_png
from m2n2_backend.prompts import MOST_CORNERS, Polygon, Scribble

MAX_STROKES = 50
"""Strokes of one object; each is an image to decode."""

MAX_CODE = 1_000_000
"""Run-length codes of all strokes of one object, in bytes; one across a photograph of 12 megapixels has 14,000."""

MAX_URL = 2_000_000
"""Characters of a stroke's PNG; an empty one of 24 megapixels has 130,000."""

MAX_PIXELS = 300_000_000
"""Pixels of all strokes of one object, as the code of each spans the image: 12 on a photograph of 24 megapixels."""

_OPAQUE = 128  # strokes have smooth edges


BrushType = Annotated[Text, WithJsonSchema({"enum": list(BRUSHES)})]
BitmaskType = Annotated[Text, WithJsonSchema({"enum": list(BITMASKS)})]
EllipseType = Annotated[Text, WithJsonSchema({"enum": list(ELLIPSES)})]
PolygonType = Annotated[Text, WithJsonSchema({"enum": list(POLYGONS)})]


def _pair(value: object) -> object:
    if isinstance(value, list) and len(value) == 2:
        return tuple(value)
    raise PydanticCustomError("pair", "must be a list of two numbers")


Corner = Annotated[tuple[float, float], BeforeValidator(_pair)]


class BrushValue(Value):
    """Of a brush stroke: the image's RGBA values, run-length encoded by Label Studio's own scheme."""

    rle: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(fail_fast=True)]


class BitmaskValue(Value):
    """Of a stroke of the bitmask tool: a PNG of the image's size, opaque where it was drawn."""

    image_url: Text = Field(alias="imageDataURL")


class EllipseValue(Value):
    """Of an ellipse about its center, in percent; turned clockwise about it by degrees."""

    x: float
    y: float
    radius_x: float = Field(alias="radiusX")
    radius_y: float = Field(alias="radiusY")
    rotation: Degrees = 0.0


class PolygonValue(Value):
    """Of a polygon: its corners, in percent."""

    points: Annotated[list[Corner], Field(max_length=MOST_CORNERS, fail_fast=True)]


class Brush(DrawnItem):
    """A scribble drawn with ``<Brush>`` or ``<BrushLabels>``."""

    type: BrushType
    value: BrushValue


class Bitmask(DrawnItem):
    """A scribble drawn with ``<Bitmask>`` or ``<BitmaskLabels>``."""

    type: BitmaskType
    value: BitmaskValue


class Ellipse(DrawnItem):
    """A box of this shape, drawn with ``<Ellipse>`` or ``<EllipseLabels>``."""

    type: EllipseType
    value: EllipseValue


class DrawnPolygon(DrawnItem):
    """A box of this shape, drawn with ``<Polygon>`` or ``<PolygonLabels>``."""

    type: PolygonType
    value: PolygonValue


def as_prompt(shape: Shape, path: str) -> Brush | Bitmask | Ellipse | DrawnPolygon:
    """A region of a smart control.

    Raises:
        InvalidRequest: See :func:`m2n2_backend.labelstudio.contract.models.read`.
    """
    kind = shape.type.lower()
    item = {**(shape.model_extra or {}), "type": shape.type, "from_name": shape.from_name}
    if kind in BRUSHES:
        return read(Brush, item, path)
    if kind in BITMASKS:
        return read(Bitmask, item, path)
    return read(Ellipse, item, path) if kind in ELLIPSES else read(DrawnPolygon, item, path)


def require_short(strokes: Sequence[Brush | Bitmask], width: int, height: int) -> None:
    """Refuse strokes that take long to read, before any is read.

    Args:
        strokes: All that were drawn for one object.
        width: Pixels of a row of the image, as the browser says; it need not be true yet.
        height: Rows of the image, as the browser says.

    Raises:
        InvalidPrompt: They are too many or too long.
    """
    if len(strokes) > MAX_STROKES:
        raise InvalidPrompt(f"more than {MAX_STROKES} strokes for one object")
    if len(strokes) * width * height > MAX_PIXELS:
        raise InvalidPrompt(
            f"{len(strokes)} strokes on an image of {width}x{height} pixels are more than can be read at once: "
            f"draw at most {MAX_PIXELS // (width * height)}, or click instead"
        )
    if sum(len(item.value.rle) for item in strokes if isinstance(item, Brush)) > MAX_CODE:
        raise InvalidPrompt(
            f"the strokes' codes have more than {MAX_CODE} bytes: draw fewer or simpler ones, or click instead"
        )
    if any(len(item.value.image_url) > MAX_URL for item in strokes if isinstance(item, Bitmask)):
        raise InvalidPrompt(
            f"a stroke's PNG has more than {MAX_URL} characters: draw a simpler one, or click instead"
        )


def scribble(item: Brush | Bitmask, width: int, height: int) -> Scribble:
    """The stroke on an image that has ``width`` × ``height`` pixels: to be asked where that is certain.

    Raises:
        InvalidPrompt: It belongs to an image of another size, is damaged or empty.
    """
    if isinstance(item, Brush):
        alpha = alpha_of_code(bytes(item.value.rle), width, height)
    else:
        alpha = alpha_of_png(_png(item), width, height)
    least = _OPAQUE if alpha.max() >= _OPAQUE else 1
    np.greater_equal(alpha, least, out=alpha.view(np.bool_))  # in place: it may be large
    return Scribble.of_bits(np.packbits(alpha, axis=1), item.is_positive is not False)


def _png(item: Bitmask) -> bytes:
    head, _, data = item.value.image_url.partition(",")
    if head != "data:image/png;base64":
        raise InvalidPrompt("the stroke must be a PNG as a data URL")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise InvalidPrompt("the stroke's PNG cannot be read") from error


def ellipse(item: Ellipse, width: int, height: int) -> Polygon:
    """The ellipse in pixels; percent of both axes are different lengths, and it is pixels that are turned.

    Raises:
        InvalidPrompt: It is empty.
    """
    value = item.value
    if value.radius_x <= 0 or value.radius_y <= 0:
        raise InvalidPrompt(f"the ellipse is empty ({value.radius_x}% by {value.radius_y}%)")
    x, radius_x = (part * width / 100 for part in (value.x, value.radius_x))
    y, radius_y = (part * height / 100 for part in (value.y, value.radius_y))
    return Polygon.ellipse(x, y, radius_x, radius_y, value.rotation)


def polygon(item: DrawnPolygon, width: int, height: int) -> Polygon:
    """The polygon in pixels."""
    return Polygon(tuple((x * width / 100, y * height / 100) for x, y in item.value.points))


def turned(item: Rectangle, width: int, height: int) -> Polygon:
    """A rectangle that was turned about its top-left corner, in pixels."""
    value, turn = item.value, math.radians(item.value.rotation)
    x, y, right, down = (
        part * side / 100
        for part, side in ((value.x, width), (value.y, height), (value.width, width), (value.height, height))
    )
    corners = ((0.0, 0.0), (right, 0.0), (right, down), (0.0, down))
    cos, sin = math.cos(turn), math.sin(turn)
    return Polygon(
        tuple((x + across * cos - below * sin, y + across * sin + below * cos) for across, below in corners)
    )
