"""Reads exported files as the formats' own tools do, and makes regions as Label Studio saves them."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.labelstudio.contract.polygons import outlines

Mask = NDArray[np.bool_]

Masks = dict[tuple[str, str], Mask]
"""The union of the masks, by the image's name without its ending and by class."""


def rasterized(points: Any, shape: tuple[int, int]) -> Mask:
    """The pixels whose center lies in a polygon of (x, y); drawn four times as large, as OpenCV rounds corners."""
    fine = np.zeros((4 * shape[0], 4 * shape[1]), np.uint8)
    cv2.fillPoly(fine, [np.round(np.reshape(points, (-1, 2)) * 4 - 0.5).astype(np.int32)], 1)
    return fine[2::4, 2::4].astype(bool)


def coco(folder: Path, shape: tuple[int, int]) -> Masks:
    data = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    images = {one["id"]: one for one in data["images"]}
    classes = {one["id"]: one["name"] for one in data["categories"]}
    found: Masks = defaultdict(lambda: np.zeros(shape, bool))
    for one in data["annotations"]:
        image = images[one["image_id"]]
        assert (image["height"], image["width"]) == shape
        x, y, width, height = one["bbox"]
        if isinstance(one["segmentation"], dict):
            code = one["segmentation"]
            assert tuple(code["size"]) == shape
            flat = np.repeat(np.arange(len(code["counts"])) % 2, code["counts"])
            mask = flat.reshape(shape[::-1]).T.astype(bool)
            assert (x, y, width, height) == around(mask)
            assert one["area"] == mask.sum()
        else:
            corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
            mask = np.logical_or.reduce([rasterized(part, shape) for part in one["segmentation"] or [corners]])
        found[Path(image["file_name"]).stem, classes[one["category_id"]]] |= mask
    return dict(found)


def yolo(folder: Path, shape: tuple[int, int]) -> Masks:
    classes = (folder / "classes.txt").read_text(encoding="utf-8").splitlines()
    found: Masks = defaultdict(lambda: np.zeros(shape, bool))
    for file in (folder / "labels").iterdir():
        for row in file.read_text().splitlines():
            index, *numbers = row.split()
            values = [float(number) for number in numbers]
            if len(values) == 4:
                x, y, width, height = values
                left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
                values = [left, top, right, top, right, bottom, left, bottom]
            points = np.reshape(values, (-1, 2)) * shape[::-1]
            found[file.stem, classes[int(index)]] |= rasterized(points, shape)
    return dict(found)


def voc(folder: Path, shape: tuple[int, int]) -> Masks:
    found: Masks = defaultdict(lambda: np.zeros(shape, bool))
    for file in (folder / "Annotations").iterdir():
        root = ElementTree.parse(file).getroot()
        assert (int(root.findtext("size/height", "")), int(root.findtext("size/width", ""))) == shape
        for one in root.iter("object"):
            sides = [int(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            found[file.stem, one.findtext("name", "")][sides[1] : sides[3], sides[0] : sides[2]] = True
    return dict(found)


def png(folder: Path, shape: tuple[int, int]) -> Masks:
    """Read files named task-T-annotation-A-by-U-CONTROL-LABEL-N.png; ``images.csv`` names the image of each."""
    names = {(row["task"], row["annotation"]): row["name"] for row in table(folder)}
    found: Masks = defaultdict(lambda: np.zeros(shape, bool))
    for file in folder.glob("*.png"):
        _, task, _, annotation, _, _, _, *label = file.stem.split("-")
        with Image.open(file) as image:
            pixels = np.asarray(image)
        assert pixels.shape == shape
        found[Path(names[task, annotation]).stem, "-".join(label[:-1])] |= pixels > 0
    return dict(found)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


READERS = {"coco": coco, "yolo": yolo, "voc": voc, "png": png}


def around(mask: Mask) -> tuple[int, int, int, int]:
    """x, y, width and height of the box around a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def box_of(mask: Mask) -> Mask:
    """The mask's bounding box, filled."""
    left, top, width, height = around(mask)
    filled = np.zeros_like(mask)
    filled[top : top + height, left : left + width] = True
    return filled


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def region(kind: str, value: dict[str, Any], labels: Sequence[str], name: str, **more: Any) -> dict[str, Any]:
    """A region as Label Studio saves it, of a kind such as ``brush``, with its labels."""
    height, width = more.pop("shape")
    return {
        "id": name,
        "type": f"{kind}labels",
        "from_name": "mask",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "origin": "manual",
        "value": {**value, f"{kind}labels": list(labels)},
        **more,
    }


def drawn(kind: str, mask: Mask, *labels: str, name: str = "m", **more: Any) -> list[dict[str, Any]]:
    """The regions that show a mask: one, or one for each part of polygons."""
    height, width = mask.shape
    if kind == "brush":
        values: list[dict[str, Any]] = [{"format": "rle", "rle": mask2rle(mask.astype(np.uint8) * 255)}]
    elif kind == "bitmask":
        file = io.BytesIO()
        Image.fromarray(np.repeat(mask.astype(np.uint8)[..., None] * 255, 4, axis=2)).save(file, "PNG")
        values = [{"imageDataURL": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}]
    elif kind == "polygon":
        rings = [ring * 100 / (width, height) for ring in outlines(mask)]
        values = [{"points": ring.round(4).tolist(), "closed": True} for ring in rings]
    else:
        x, y, across, down = around(mask)
        sides = {"x": 100 * x / width, "y": 100 * y / height}
        values = [{**sides, "width": 100 * across / width, "height": 100 * down / height, "rotation": 0}]
    return [
        region(kind, value, labels, f"{name}{number or ''}", shape=mask.shape, **more)
        for number, value in enumerate(values)
    ]


def with_labels_control(regions: Sequence[dict[str, Any]], control: str = "label") -> list[dict[str, Any]]:
    """Regions as ``<Brush>`` with ``<Labels>`` saves them: each twice, the second time with the labels."""
    both = []
    for one in regions:
        kind = one["type"].removesuffix("labels")
        value = {key: part for key, part in one["value"].items() if key != one["type"]}
        both.append({**one, "type": kind, "value": value})
        both.append(
            {**one, "type": "labels", "from_name": control, "value": {**value, "labels": one["value"][one["type"]]}}
        )
    return both


def accepted(regions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as this backend returns them: a brush or bitmask is the item with the labels alone."""
    return [one for one in with_labels_control(regions) if one["type"] not in ("brush", "bitmask")]
