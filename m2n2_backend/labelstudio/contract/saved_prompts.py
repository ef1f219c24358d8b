"""Prompts that wait in a task, in its annotations and drafts or in a column of its data → one list per object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from m2n2_backend.errors import InvalidRequest
from m2n2_backend.labelstudio.contract.label_config import LabelConfig
from m2n2_backend.labelstudio.contract.models import (
    BITMASKS,
    BRUSHES,
    LABEL_KEYS,
    LABELS,
    POINTS,
    RECTANGLES,
    SHAPES,
    ColumnBox,
    ColumnPoint,
    read,
)

_PROMPTS = (*POINTS, *RECTANGLES, *SHAPES)
_OF_POINTS = (*POINTS, *BRUSHES, *BITMASKS)

Region = dict[str, Any]
"""As a request's context would hold it."""


def saved_objects(task: Mapping[str, Any], config: LabelConfig) -> list[list[Region]]:
    """The prompts that were drawn and saved, as a request's context would hold them.

    Each rectangle, ellipse and polygon is an object; the key points and strokes of one label (and page) are another.
    Regions of a draft win over those of the same id in an annotation; skipped annotations do not count.

    Args:
        task: As Label Studio's API tells it, with ``annotations`` and ``drafts``.
        config: The project's labeling config; only its smart controls prompt.
    """
    items: dict[str, Region] = {}
    twins: dict[str, Region] = {}
    for key in ("annotations", "drafts"):
        for entry in _objects(task.get(key)):
            for region in () if entry.get("was_cancelled") else _objects(entry.get("result")):
                name = str(region.get("id"))
                if region.get("type") == LABELS:
                    twins[name] = region
                elif region.get("from_name") in config.prompts and _kind(region) in _PROMPTS:
                    items[name] = region
    return _grouped(list(items.values()), twins)


def column_objects(value: object, path: str, size: tuple[int, int], config: LabelConfig) -> list[list[Region]]:
    """The prompts of a column: a list, or its JSON, of points and boxes in pixels of the image.

    ``{"x": 320, "y": 240, "positive": false, "label": "Cat"}`` is a point, ``{"x0": 10, "y0": 10, "x1": 200,
    "y1": 180, "label": "Cat"}`` a box without its last column and row. ``positive`` (true) and ``label`` may
    be missing. Objects are told apart as in :func:`saved_objects`.

    Args:
        value: What the task's data holds.
        path: Where, for messages.
        size: Width and height of the image in pixels.
        config: The project's labeling config.

    Raises:
        InvalidRequest: It is something else; the message names its path.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f'{path} is no JSON: expected [{{"x": 320, "y": 240, "label": "…"}}]') from error
    if not isinstance(value, list):
        raise InvalidRequest(f"{path} must be a list of points and boxes")
    control = min(config.prompts)
    return _grouped(
        [_region(one, f"{path}[{index}]", size, control, str(index)) for index, one in enumerate(value)], {}
    )


def _region(entry: object, path: str, size: tuple[int, int], control: str, name: str) -> Region:
    width, height = size
    is_box = isinstance(entry, dict) and "x0" in entry
    prompt = read(ColumnBox, entry, path) if is_box else read(ColumnPoint, entry, path)
    if isinstance(prompt, ColumnPoint):
        # The middle of the pixel, so that no rounding leads to its neighbor.
        value: Region = {"x": (prompt.x + 0.5) * 100 / width, "y": (prompt.y + 0.5) * 100 / height}
    else:
        left, top = (prompt.x0 + 0.5) * 100 / width, (prompt.y0 + 0.5) * 100 / height
        value = {
            "x": left,
            "y": top,
            "width": prompt.x1 * 100 / width - left,
            "height": prompt.y1 * 100 / height - top,
        }
    return {
        "id": name,
        "type": RECTANGLES[0] if is_box else POINTS[0],
        "from_name": control,
        "original_width": width,
        "original_height": height,
        "is_positive": prompt.positive if isinstance(prompt, ColumnPoint) else True,
        "value": value if prompt.label is None else {**value, "labels": [prompt.label]},
    }


def _grouped(items: Sequence[Region], twins: Mapping[str, Region]) -> list[list[Region]]:
    groups: dict[tuple[str, str, str], list[Region]] = {}
    for item in items:
        twin = twins.get(str(item.get("id")))
        if _kind(item) not in _OF_POINTS:
            key = ("rectangle", str(item.get("id")), "")
        else:
            key = ("points", _label(item) or (_label(twin) if twin else ""), str(item.get("item_index") or 0))
        groups.setdefault(key, []).extend([item] if twin is None else [item, twin])
    return list(groups.values())


def _kind(item: Mapping[str, Any]) -> str:
    return str(item.get("type")).lower()


def _label(item: Mapping[str, Any]) -> str:
    value = item.get("value")
    found = [value[key] for key in LABEL_KEYS if value.get(key)] if isinstance(value, dict) else []
    return json.dumps(found[0]) if found else ""


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
