"""Label Studio's strokes and shapes as they are sent → scribbles and polygons, in pixels."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Annotated

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image
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
from m2n2_backend.prompts import Polygon, Scribble

MAX_CORNERS = 10_000
"""Of a polygon; the editor makes one a click."""

MAX_CODE = 1_000_000
"""Longest code of a stroke in bytes; one across a photograph of 12 megapixels has 14,000."""

MAX_PIXELS = 100_000_000
"""Of an image on which strokes are read, as their codes span all of it."""

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

    points: Annotated[list[Corner], Field(max_length=MAX_CORNERS, fail_fast=True)]


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


def scribble(item: Brush | Bitmask, width: int, height: int) -> Scribble:
    """The stroke on an image of ``width`` × ``height`` pixels.

    Raises:
        InvalidPrompt: It is too large, belongs to an image of another size, or is empty.
    """
    if width * height > MAX_PIXELS:
        raise InvalidPrompt(f"a stroke on an image of more than {MAX_PIXELS} pixels: click instead")
    alpha = _from_code(item, width, height) if isinstance(item, Brush) else _from_png(item, width, height)
    solid = alpha >= _OPAQUE
    return Scribble.of(solid if solid.any() else alpha > 0, item.is_positive is not False)


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
    value = item.value
    right, down = np.array([value.width * width, 0]) / 100, np.array([0, value.height * height]) / 100
    angle = np.radians(value.rotation)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([value.x * width, value.y * height]) / 100 + [(0, 0), right, right + down, down] @ turn
    return Polygon(tuple((float(x), float(y)) for x, y in corners))


def _from_code(item: Brush, width: int, height: int) -> NDArray[np.uint8]:
    code = item.value.rle
    if len(code) > MAX_CODE:
        raise InvalidPrompt(f"the stroke's code has more than {MAX_CODE} bytes: draw a simpler one, or click")
    # Its first four bytes say how many values follow; the SDK would make room for as many.
    if int.from_bytes(code[:4], "big") != 4 * width * height:
        raise InvalidPrompt(f"the stroke is none on an image of {width}x{height} pixels")
    try:
        return np.asarray(decode_rle(code).reshape(height, width, 4)[..., 3], np.uint8)
    except ValueError as error:  # what the SDK raises where bits are missing
        raise InvalidPrompt("the stroke's code ends too early") from error


def _from_png(item: Bitmask, width: int, height: int) -> NDArray[np.uint8]:
    head, _, data = item.value.image_url.partition(",")
    if head != "data:image/png;base64" or len(data) > 2 * MAX_CODE:
        raise InvalidPrompt("the stroke must be a PNG as a data URL, of at most two million characters")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"]) as image:
            fits = image.size == (width, height)
            alpha = np.asarray(image.convert("RGBA"))[..., 3] if fits else None
    except (OSError, SyntaxError, ValueError, binascii.Error, Image.DecompressionBombError) as error:
        raise InvalidPrompt("the stroke's PNG cannot be read") from error
    if alpha is None:
        raise InvalidPrompt(f"the stroke is none on an image of {width}x{height} pixels")
    return alpha
