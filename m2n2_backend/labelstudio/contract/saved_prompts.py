"""Prompts that wait in a task, in its annotations and drafts or in a column of its data → one list per object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from m2n2_backend.errors import InvalidRequest
from m2n2_backend.labelstudio.contract.fields import as_list, as_number, as_object, as_text
from m2n2_backend.labelstudio.contract.label_config import LabelConfig

Item = dict[str, Any]

_POINTS = ("keypointlabels", "keypoint")
_RECTANGLES = ("rectanglelabels", "rectangle")
_LABELS = "labels"


def saved_objects(task: Mapping[str, Any], config: LabelConfig) -> list[list[Item]]:
    """The prompts that were drawn and saved, as a request's context would hold them.

    Each rectangle is an object; the key points of one label (and page) are another. Regions of a draft win over
    those of the same id in an annotation; skipped annotations do not count.

    Args:
        task: As Label Studio's API tells it, with ``annotations`` and ``drafts``.
        config: The project's labeling config; only its smart controls prompt.
    """
    items: dict[str, Item] = {}
    twins: dict[str, Item] = {}
    for key in ("annotations", "drafts"):
        for entry in _objects(task.get(key)):
            for region in () if entry.get("was_cancelled") else _objects(entry.get("result")):
                name = str(region.get("id"))
                if region.get("type") == _LABELS:
                    twins[name] = region
                elif region.get("from_name") in config.prompts and _kind(region) in (*_POINTS, *_RECTANGLES):
                    items[name] = region
    return _grouped(list(items.values()), twins)


def column_objects(value: object, path: str, size: tuple[int, int], config: LabelConfig) -> list[list[Item]]:
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
    control = min(config.prompts)
    items = []
    for index, entry in enumerate(as_list(value, path)):
        where = f"{path}[{index}]"
        items.append(_item(as_object(entry, where), where, size, control, f"{index}"))
    return _grouped(items, {})


def _item(entry: Mapping[str, Any], path: str, size: tuple[int, int], control: str, name: str) -> Item:
    width, height = size
    known = {"x", "y", "positive", "label"} if "x" in entry else {"x0", "y0", "x1", "y1", "label"}
    if unknown := sorted(set(entry) - known):
        raise InvalidRequest(f"{path}.{unknown[0]} is unknown: a point has x and y, a box x0, y0, x1 and y1")
    number = {key: as_number(entry.get(key), f"{path}.{key}") for key in known - {"positive", "label"}}
    if "x" in entry:
        # The middle of the pixel, so that no rounding leads to its neighbor.
        value = {"x": (number["x"] + 0.5) * 100 / width, "y": (number["y"] + 0.5) * 100 / height}
    else:
        left, top = (number["x0"] + 0.5) * 100 / width, (number["y0"] + 0.5) * 100 / height
        right, bottom = number["x1"] * 100 / width, number["y1"] * 100 / height
        value = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    label = entry.get("label")
    return {
        "id": name,
        "type": _POINTS[0] if "x" in entry else _RECTANGLES[0],
        "from_name": control,
        "original_width": width,
        "original_height": height,
        "is_positive": entry.get("positive", True),
        "value": value if label is None else {**value, "labels": [as_text(label, f"{path}.label")]},
    }


def _grouped(items: Sequence[Item], twins: Mapping[str, Item]) -> list[list[Item]]:
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        twin = twins.get(str(item.get("id")))
        if _kind(item) in _RECTANGLES:
            key = ("rectangle", str(item.get("id")), "")
        else:
            key = ("points", _label(item) or (_label(twin) if twin else ""), str(item.get("item_index") or 0))
        groups.setdefault(key, []).extend([item] if twin is None else [item, twin])
    return list(groups.values())


def _kind(item: Mapping[str, Any]) -> str:
    return str(item.get("type")).lower()


def _label(item: Mapping[str, Any]) -> str:
    value = item.get("value")
    found = [value[key] for key in ("labels", "keypointlabels") if value.get(key)] if isinstance(value, dict) else []
    return json.dumps(found[0]) if found else ""


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
