"""A mask → the regions that Label Studio draws."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.labelstudio.contract.label_config.controls import OutputKind, Target
from m2n2_backend.labelstudio.contract.polygons import bounds, outlines
from m2n2_backend.labelstudio.contract.request import InteractiveRequest
from m2n2_backend.worker.interface import Answer
from m2n2_backend.worker.replica.rle import brush_rle


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
        labels of a separate ``<Labels>`` stand in a second item of the same id.

    Raises:
        ValueError: ``score`` is not a number in [0, 1].
    """
    if not mask.any():
        return []
    described: list[dict[str, Any]] = []
    for target in request.targets:
        is_first = target is request.targets[0]
        first_id = request.region_id if is_first else _derived_id(request.region_id, target.name)
        for index, value in enumerate(_values(mask, target.kind, rle)):
            region = {
                "id": _derived_id(first_id, index) if index else first_id,
                "from_name": target.name,
                "to_name": request.image_name,
                "type": target.control.type,
                "original_width": request.width,
                "original_height": request.height,
                "image_rotation": request.image_rotation,
                "score": _checked(score),
                "value": value,
            }
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


def _values(mask: NDArray[np.bool_], kind: OutputKind, rle: bytes | None) -> list[dict[str, Any]]:
    match kind:
        case "brush":
            return [{"format": "rle", "rle": list(rle or brush_rle(mask))}]
        case "bitmask":
            return [{"imageDataURL": _png_url(mask)}]
        case "polygon":
            scale = 100.0 / np.array(mask.shape[::-1])
            return [{"points": (ring * scale).round(4).tolist(), "closed": True} for ring in outlines(mask)]
        case "rectangle":
            return [_bounding_box(mask)]


def _png_url(mask: NDArray[np.bool_]) -> str:
    """A data URL of an RGBA image whose alpha is the mask."""
    pixels = np.repeat((mask.astype(np.uint8) * 255)[..., None], 4, axis=2)
    # The lowest level of compression: runs of equal pixels shrink well enough, and a click waits for it.
    _, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()


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


def _derived_id(region_id: str, part: int | str) -> str:
    return hashlib.sha256(f"{region_id}/{part}".encode()).hexdigest()[:10]


def _checked(score: float) -> float:
    if not math.isfinite(score) or not 0.0 <= score <= 1.0:
        raise ValueError(f"score {score} is not in [0, 1]")
    return float(score)
