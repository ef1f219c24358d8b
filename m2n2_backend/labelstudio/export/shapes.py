"""Regions → the shapes that each format holds, in the form that the SDK's converter takes."""

from __future__ import annotations

import base64
import binascii
import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.labelstudio.contract.polygons import area_of, bounds, joined, outlines
from m2n2_backend.labelstudio.export.controls import Emitted
from m2n2_backend.labelstudio.export.regions import Region
from m2n2_backend.prompts import Polygon
from m2n2_backend.worker.replica.rle import brush_rle

Format = Literal["coco", "yolo", "voc", "png", "json"]

Ring = NDArray[np.float64]

_INSIDE = 0.01
"""Pixels added to whole ones: the converter cuts off what follows the point, and 57.999… pixels are 58."""


class Empty(ValueError):
    """The region covers no pixel."""


@dataclass(frozen=True, slots=True)
class Emission:
    """A region as the converter is given it.

    Attributes:
        kind: The type of ``value``.
        value: The value without its label.
        mask: bool [H, W], where COCO holds this instead of ``value``.
        rings: The outlines of several parts, (x, y) in pixels, where COCO holds these instead.
    """

    kind: Emitted
    value: dict[str, Any]
    mask: NDArray[np.bool_] | None = None
    rings: tuple[Ring, ...] = ()


def emission(region: Region, format: Format, *, boxes: bool) -> Emission:
    """The shape that a format other than ``json`` holds of a region. ``boxes``: YOLO rows are boxes, not polygons.

    Raises:
        Empty: It covers no pixel.
        ValueError: It cannot be read, or the format cannot hold it; the message says which formats can.
    """
    if region.kind == "keypoint":
        if format in ("voc", "png"):
            raise ValueError(f"{format} holds no key points: export them as coco, yolo or json")
        return Emission("keypoint", region.value)
    if format == "png":
        return Emission("brush", {"format": "rle", "rle": _code(region)})
    if format == "voc" or (format == "yolo" and boxes):
        return Emission("rectangle", _box(_ring(region), region, whole=format == "voc"))
    if format == "coco" and region.kind in ("brush", "bitmask"):
        mask = mask_of(region)
        left, top, right, bottom = bounds(mask)
        around = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
        return Emission("polygon", _polygon(around, region), mask)
    if format == "coco" and region.kind == "rectangle" and not region.value.get("rotation"):
        return Emission("rectangle", region.value)
    parts = [part for part in region.parts if len(part.value["points"]) >= 3] if format == "coco" else []
    rings = tuple(_ring(part) for part in parts)
    return Emission("polygon", _polygon(_ring(region), region), rings=rings)


def mask_of(region: Region) -> NDArray[np.bool_]:
    """The pixels of a region, bool [H, W]: those whose center lies inside, or that a brush touched.

    Raises:
        Empty: It covers no pixel.
        ValueError: It cannot be read.
    """
    mask: NDArray[np.bool_]
    if region.parts:
        mask = np.zeros((region.height, region.width), np.bool_)
        for part in region.parts:
            with suppress(Empty):
                mask |= mask_of(part)
    elif region.kind == "brush":
        mask = _from_code(region)
    elif region.kind == "bitmask":
        mask = _from_png(region)
    else:
        shape = (region.height, region.width)
        corners = tuple((float(x), float(y)) for x, y in _ring(region))
        mask = Polygon(corners).mask(shape, shape)
    if not mask.any():
        raise Empty("it covers no pixel")
    return mask


def area_of_region(region: Region) -> float:
    """Square pixels of a region of one part, as ``contract/response.py`` counts them.

    Raises:
        Empty: It covers no pixel.
        ValueError: It cannot be read.
    """
    if region.kind in ("brush", "bitmask"):
        return float(np.count_nonzero(mask_of(region)))
    return area_of(_ring(region))


def _code(region: Region) -> list[int]:
    mask = mask_of(region)
    return list(region.value["rle"]) if region.kind == "brush" else list(brush_rle(mask))


def _ring(region: Region) -> Ring:
    """The outline [n, 2] of a region, (x, y) in pixels; the parts of a mask are joined by bridges of no width."""
    value, scale = region.value, np.array([region.width, region.height]) / 100.0
    if region.parts or region.kind in ("brush", "bitmask"):
        return joined(outlines(mask_of(region)))
    if region.kind == "polygon":
        ring = np.array(value["points"], np.float64).reshape(-1, 2) * scale
        if len(ring) < 3:
            raise Empty("a polygon needs three corners")
        return ring
    x, y = np.array([value["x"], value["y"]], np.float64) * scale
    turn = float(value.get("rotation") or 0.0)
    if region.kind == "ellipse":
        across, down = np.array([value["radiusX"], value["radiusY"]], np.float64) * scale
        ring = np.array(Polygon.ellipse(x, y, across, down, turn).points)
    else:
        across, down = np.array([value["width"], value["height"]], np.float64) * scale
        # It is pixels that are turned, clockwise about the top-left corner, and not percent.
        cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        corners = np.array([(0, 0), (across, 0), (across, down), (0, down)])
        ring = corners @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)
    if across <= 0 or down <= 0:
        raise Empty("its width or height is zero")
    return ring


def _polygon(ring: Ring, region: Region) -> dict[str, Any]:
    return {"points": (ring * 100.0 / (region.width, region.height)).tolist(), "closed": True}


def _box(ring: Ring, region: Region, *, whole: bool) -> dict[str, Any]:
    """The upright rectangle around a ring, cut at the image's border; its sides may be rounded to whole pixels."""
    size = np.array([region.width, region.height], np.float64)
    first, last = ring.min(axis=0).clip(0.0, size), ring.max(axis=0).clip(0.0, size)
    if whole:
        first = np.minimum(first.round(), size - 1.0)
        extent = np.maximum(last.round() - first, 1.0)
        first, extent = first + _INSIDE, extent + _INSIDE
    else:
        extent = last - first
    (x, y), (width, height) = first * 100.0 / size, extent * 100.0 / size
    return {"x": float(x), "y": float(y), "width": float(width), "height": float(height), "rotation": 0}


def _from_code(region: Region) -> NDArray[np.bool_]:
    code = bytes(region.value["rle"])
    # Its first four bytes say how many values follow; the SDK would make room for as many.
    if int.from_bytes(code[:4], "big") != 4 * region.width * region.height:
        raise ValueError(f"its mask does not have the size of its image, {region.width}x{region.height} pixels")
    return np.asarray(decode_rle(code).reshape(region.height, region.width, 4)[..., 3] > 0)


def _from_png(region: Region) -> NDArray[np.bool_]:
    try:
        data = base64.b64decode(region.value["imageDataURL"].partition(",")[2], validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError("its PNG cannot be read") from error
    if alpha.shape != (region.height, region.width):
        raise ValueError(f"its mask does not have the size of its image, {region.width}x{region.height} pixels")
    return np.asarray(alpha > 0)
