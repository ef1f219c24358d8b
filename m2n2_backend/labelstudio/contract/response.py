"""A mask → the regions that Label Studio draws."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.labelstudio.contract.label_config.controls import OutputKind, Target
from m2n2_backend.labelstudio.contract.polygons import LEAST_PART, area_of, bounds, outlines
from m2n2_backend.labelstudio.contract.request import InteractiveRequest
from m2n2_backend.prompts import Click
from m2n2_backend.worker.interface import Answer
from m2n2_backend.worker.replica.rle import brush_rle

RGBA_PIXELS = 2**21
"""Bitmasks of at most so many pixels are written as browsers write them, which takes up to 20 ms; at 24 megapixels it
would take half a second."""


def prediction(answer: Answer, request: InteractiveRequest) -> dict[str, Any]:
    """Label Studio's prediction for one task: ``result`` (empty where the mask is), ``score`` and ``model_version``.

    Raises:
        ValueError: The score is not a number in [0, 1]; Label Studio could not open the task any more.
    """
    return {
        "result": regions(answer.mask, answer.score, request, answer.rle),
        "score": _checked(answer.score),
        "model_version": answer.model_version,
    }


def regions(
    mask: NDArray[np.bool_], score: float, request: InteractiveRequest, rle: bytes | None = None
) -> list[dict[str, Any]]:
    """The regions that show a mask in the request's output controls.

    Args:
        mask: bool [H, W], the size of the natural image.
        rle: The mask as brush RLE where the model's worker made it; for large masks that takes long.

    Returns:
        One region for each target, or one per part where polygons are drawn; no region where the mask is empty. The
        further parts of an object have the first one as their parent. The labels of a separate ``<Labels>`` stand in
        a second item of the same id.

    Raises:
        ValueError: ``score`` is not a number in [0, 1].
    """
    if not mask.any():
        return []
    described: list[dict[str, Any]] = []
    kept = _clicked(request)
    for target in request.targets:
        is_first = target is request.targets[0]
        first_id = request.region_id if is_first else _derived_id(request.region_id, target.name)
        values = _values(mask, target.kind, rle, kept)
        for index, (value, area) in enumerate(values):
            region: dict[str, Any] = {
                "id": piece_id(first_id, index) if index else first_id,
                "from_name": target.name,
                "to_name": request.image_name,
                "type": target.control.type,
                "original_width": request.width,
                "original_height": request.height,
                "image_rotation": request.image_rotation,
                "score": _checked(score),
                # Kept by Label Studio, so that a project's annotations tell what was clicked and what was edited.
                "meta": {"prompts": len(request.drawn), "area": area, "parts": len(values)},
                "value": value,
            }
            if index:
                region["parentID"] = first_id  # the editor's list shows one object, which can be unfolded
            if request.item_index is not None:
                region["item_index"] = request.item_index
            described.extend(_labeled(region, target))
    return described


def _labeled(region: dict[str, Any], target: Target) -> Iterator[dict[str, Any]]:
    value = region["value"]
    # An empty list is a region without a label, where the control allows one.
    own = {target.control.type: list(target.labels)} if target.control.holds_labels else {}
    # The editor encodes the mask of a brush once for each item with every click, so one item has to do. It edits
    # the corners of a polygon through the control of the item that has no labels.
    if own or not target.separate or target.kind in ("polygon", "rectangle"):
        yield {**region, "value": {**value, **own}}
    for name, labels in target.separate:
        yield {**region, "from_name": name, "type": "labels", "value": {**value, "labels": list(labels)}}


def _values(
    mask: NDArray[np.bool_], kind: OutputKind, rle: bytes | None, kept: Sequence[tuple[int, int]]
) -> list[tuple[dict[str, Any], int]]:
    """What each region holds, and its area in pixels."""
    match kind:
        case "brush":
            return [({"format": "rle", "rle": list(rle or brush_rle(mask))}, np.count_nonzero(mask))]
        case "bitmask":
            return [({"imageDataURL": _png_url(mask)}, np.count_nonzero(mask))]
        case "polygon":
            scale = 100.0 / np.array(mask.shape[::-1])
            rings = outlines(mask, least_part=LEAST_PART, kept=kept)
            return [
                ({"points": (ring * scale).round(4).tolist(), "closed": True}, round(area_of(ring))) for ring in rings
            ]
        case "rectangle":
            left, top, right, bottom = bounds(mask)
            return [(_bounding_box(mask), (right - left) * (bottom - top))]


def _clicked(request: InteractiveRequest) -> list[tuple[int, int]]:
    """The pixels (x, y) of the foreground clicks."""
    points = [one.item.prompt(request.width, request.height) for one in request.drawn if not one.is_stroke]
    return [(point.x, point.y) for point in points if isinstance(point, Click) and point.positive]


def _png_url(mask: NDArray[np.bool_]) -> str:
    """A data URL of an RGBA image whose alpha is the mask.

    That of a large photograph has a palette of two such colors, and one bit a pixel: RGBA takes 35 times as long.
    """
    image, file = Image.fromarray(mask.view(np.uint8)), io.BytesIO()
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.info["transparency"] = b"\x00\xff"
    if mask.size <= RGBA_PIXELS:
        image = image.convert("RGBA")
    # The lowest level of compression: runs of equal pixels shrink well enough, and a click waits for it.
    image.save(file, "PNG", bits=1, compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _bounding_box(mask: NDArray[np.bool_]) -> dict[str, Any]:
    height, width = mask.shape
    left, top, right, bottom = bounds(mask)
    return {
        "x": 100.0 * left / width,
        "y": 100.0 * top / height,
        "width": 100.0 * (right - left) / width,
        "height": 100.0 * (bottom - top) / height,
        "rotation": 0,
    }


def piece_id(first: str, index: int) -> str:
    """The id of an object's region ``index``, from 1, beside the region ``first``: the same for each answer."""
    return _derived_id(first, index)


def _derived_id(region_id: str, part: int | str) -> str:
    return hashlib.sha256(f"{region_id}/{part}".encode()).hexdigest()[:10]


def _checked(score: float) -> float:
    if not math.isfinite(score) or not 0.0 <= score <= 1.0:
        raise ValueError(f"score {score} is not in [0, 1]")
    return float(score)
