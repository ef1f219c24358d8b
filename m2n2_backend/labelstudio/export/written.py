"""The files that the SDK's converter wrote: they are counted, and for COCO completed with names, sizes and masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.labelstudio.contract.polygons import area_of, bounds
from m2n2_backend.labelstudio.export.shapes import Format

RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class Counts:
    """Objects in the exported files.

    Attributes:
        shapes: Masks, polygons and rectangles.
        points: Key points.
    """

    shapes: int = 0
    points: int = 0

    def __str__(self) -> str:
        """The counts in words."""
        return f"{self.shapes} objects" + (f" and {self.points} key points" if self.points else "")


def written(folder: Path, format: Format, *, pose: bool) -> Counts:
    """Count the objects in the converter's folder. ``pose``: YOLO rows hold key points."""
    match format:
        case "coco":
            annotations = json.loads((folder / RESULT).read_text(encoding="utf-8"))["annotations"]
            poses = [one for one in annotations if "keypoints" in one]
            return Counts(len(annotations) - len(poses), sum(one["num_keypoints"] for one in poses))
        case "yolo":
            texts = [path.read_text(encoding="utf-8") for path in (folder / "labels").glob("*.txt")]
            rows = [row.split() for text in texts for row in text.splitlines()]
            # Class and box, then x, y and visibility of each key point.
            visible = [value for row in rows if pose for value in row[7::3] if float(value) > 0]
            return Counts(len(rows), len(visible))
        case "voc":
            files = (folder / "Annotations").glob("*.xml")
            return Counts(sum(path.read_text(encoding="utf-8").count("<object>") for path in files))
        case _:
            return Counts(len(list(folder.glob("*.png"))))


@dataclass(frozen=True, slots=True)
class CocoImage:
    """The facts of an image that the converter is not given.

    Attributes:
        name: The name of its file.
        size: Width and height in pixels, None where they are not known.
    """

    name: str
    size: tuple[int, int] | None


def complete_coco(folder: Path, images: Sequence[CocoImage], masks: Sequence[dict[str, Any] | None]) -> int:
    """Put in the images' names and sizes, and the masks, exact to the pixel and with their holes.

    The converter itself writes the outer contours of a brush mask, each as an object of its own.

    Args:
        folder: The folder of the converter's ``result.json``.
        images: The images in the order in which the converter was given them.
        masks: The :func:`coco_mask` or :func:`coco_rings` of each shape, in the same order; None for boxes and single
            polygons.

    Returns:
        The number of images that had to be left out, because their size is not known.
    """
    file = folder / RESULT
    data = json.loads(file.read_text(encoding="utf-8"))
    for entry, image in zip(data["images"], images, strict=True):
        entry["file_name"] = image.name
        if image.size is not None:
            entry["width"], entry["height"] = image.size
    sized = [entry for entry in data["images"] if entry["width"]]
    left_out = len(data["images"]) - len(sized)
    data["images"] = sized
    shapes = [one for one in data["annotations"] if "keypoints" not in one]
    if len(shapes) == len(masks):  # else the count says that objects are missing
        for shape, mask in zip(shapes, masks, strict=True):
            shape.update(mask or {})
    file.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return left_out


def coco_rings(rings: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Outlines [n, 2] of the parts of one object as COCO's list of polygons, with their box and area in pixels."""
    corners = np.concatenate(rings)
    first, last = corners.min(axis=0), corners.max(axis=0)
    return {
        "segmentation": [ring.ravel().tolist() for ring in rings],
        "bbox": [float(side) for side in (*first, *(last - first))],
        "area": sum(area_of(ring) for ring in rings),
    }


def coco_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask, bool [H, W] and not empty, as COCO's uncompressed run-length code, with its box and area in pixels."""
    flat = mask.T.ravel()
    ends = np.concatenate([np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    counts = np.diff(ends, prepend=0).tolist()
    left, top, right, bottom = bounds(mask)
    return {
        "segmentation": {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts},
        "bbox": [float(side) for side in (left, top, right - left, bottom - top)],
        "area": int(mask.sum()),
    }
