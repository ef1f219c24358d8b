"""Prompts that wait in a task, in its annotations and drafts or in a column of its data → one list per object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict

from m2n2_backend.errors import InvalidRequest
from m2n2_backend.labelstudio.contract.drawn import LABEL_KEYS, KeyPoint, Rectangle
from m2n2_backend.labelstudio.contract.label_config import LabelConfig, ShownImage
from m2n2_backend.labelstudio.contract.models import LABELS, kind_of
from m2n2_backend.labelstudio.contract.reading import Model, Text, objects_in, read

Region = dict[str, Any]
"""A region as a request's context would hold it."""

Source = Literal["annotations", "predictions"]
"""Where prompts are saved in a task; ``annotations`` includes its drafts."""


class ColumnPoint(Model):
    """A point in a column of the task's data, in pixels."""

    model_config = ConfigDict(extra="forbid")

    x: float
    y: float
    positive: bool = True
    label: Text | None = None


class ColumnBox(Model):
    """A box in a column of the task's data, in pixels, without its last column and row."""

    model_config = ConfigDict(extra="forbid")

    x0: float
    y0: float
    x1: float
    y1: float
    label: Text | None = None


def saved_objects(task: Mapping[str, Any], config: LabelConfig, source: Source = "annotations") -> list[list[Region]]:
    """The prompts that were drawn and saved, as a request's context would hold them.

    Each rectangle, ellipse and polygon is an object; the key points and strokes with the same labels on one image
    (and page) are another. Regions of a draft win over those of the same id in an annotation; skipped annotations do
    not count.

    Args:
        task: The task of Label Studio's API, with ``annotations``, ``drafts`` and ``predictions``.
        config: The project's labeling config; only regions of its smart controls are prompts.

    Raises:
        InvalidRequest: A prompt was saved without the size of its image.
    """
    items: dict[str, Region] = {}
    twins: dict[str, list[Region]] = {}
    for region in _saved(task, source):
        name = str(region.get("id"))
        if region.get("type") == LABELS:
            twins.setdefault(name, []).append(region)
        elif _is_prompt(region, config):
            items[name] = region
    for name, region in items.items():
        if region.get("original_width") is None or region.get("original_height") is None:
            kind = str(region.get("type")).lower().removesuffix(LABELS)
            raise InvalidRequest(
                f"the {kind} {name} in the task's {source} was saved without "
                "original_width and original_height, the size of its image in pixels: add both to what imports it"
            )
    return _grouped(list(items.values()), twins)


def without_prompts(task: Mapping[str, Any], config: LabelConfig, source: Source) -> str:
    """The things in a task that look like prompts, where :func:`saved_objects` finds none; "" if there are none."""
    if source == "annotations" and (count := sum(_is_prompt(one, config) for one in _saved(task, "predictions"))):
        return f"its predictions hold prompts ({count}): --from predictions uses them"
    found = ((one, kind_of(one)) for one in _saved(task, source))
    others = [one for one, kind in found if kind is not None and not kind.may_be_mask]
    if not others:
        return ""
    names = ", ".join(sorted({f'"{one.get("from_name")}"' for one in others}))
    return (
        f"its points and rectangles ({len(others)}) belong to {names}, not to a smart control of the labeling config"
    )


def _saved(task: Mapping[str, Any], source: Source) -> Iterator[Region]:
    """All regions, with unique ids: imported regions may have no id, and two people may give the same one."""
    drafted = {one.get("id") for regions in _entries(task, "drafts") for one in regions}
    used: set[str] = set()
    for key in ("annotations", "drafts") if source == "annotations" else ("predictions",):
        for number, regions in enumerate(_entries(task, key)):
            names: dict[str, str] = {}
            for place, region in enumerate(regions):
                own = str(region.get("id") or "")
                if key == "annotations" and own and own in drafted:
                    continue
                other = f"{key}-{number}-{own or place}"
                # The items of one region have one id, and keep it in common.
                name = names.setdefault(own, other if own in used else own) if own else other
                yield {**region, "id": name}
            used.update(names.values())


def _entries(task: Mapping[str, Any], key: str) -> list[list[Region]]:
    """The regions of each annotation, draft or prediction that was not skipped."""
    return [objects_in(entry.get("result")) for entry in objects_in(task.get(key)) if not entry.get("was_cancelled")]


def _is_prompt(region: Region, config: LabelConfig) -> bool:
    return kind_of(region) is not None and config.is_prompt(region.get("from_name"))


def column_objects(value: object, path: str, size: tuple[int, int], image: ShownImage) -> list[list[Region]]:
    """The prompts of a column: a list, or its JSON, of points and boxes in pixels of the image.

    ``{"x": 320, "y": 240, "positive": false, "label": "Cat"}`` is a point, ``{"x0": 10, "y0": 10, "x1": 200,
    "y1": 180, "label": "Cat"}`` a box without its last column and row. ``positive`` (true) and ``label`` may
    be missing. Prompts are grouped into objects as in :func:`saved_objects`.

    Args:
        path: The column's path, for messages.
        size: Width and height of the image in pixels.
        image: The image that the prompts are on.

    Raises:
        InvalidRequest: It is something else; the message names its path.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(
                f'{path} is not valid JSON: expected [{{"x": 320, "y": 240, "label": "…"}}]'
            ) from error
    if not isinstance(value, list):
        raise InvalidRequest(f"{path} must be a list of points and boxes")
    named = {"from_name": image.prompt, "to_name": image.name}
    regions = [_region(one, f"{path}[{index}]", size, str(index)) for index, one in enumerate(value)]
    return _grouped([{**region, **named} for region in regions], {})


def _region(entry: object, path: str, size: tuple[int, int], name: str) -> Region:
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
        "type": (Rectangle if is_box else KeyPoint).names[0],
        "original_width": width,
        "original_height": height,
        "is_positive": prompt.positive if isinstance(prompt, ColumnPoint) else True,
        "value": value if prompt.label is None else {**value, "labels": [prompt.label]},
    }


def _grouped(items: Sequence[Region], twins: Mapping[str, list[Region]]) -> list[list[Region]]:
    groups: dict[str, list[Region]] = {}
    for item in items:
        name = str(item.get("id"))
        with_labels = [item, *twins.get(name, ())]
        kind = kind_of(item)
        if kind is not None and kind.is_object:
            key = json.dumps(["object", name])
        else:
            labels = [_labels(one) for one in with_labels]
            key = json.dumps(["points", labels, item.get("to_name"), item.get("item_index") or 0])
        groups.setdefault(key, []).extend(with_labels)
    return list(groups.values())


def _labels(item: Mapping[str, Any]) -> object:
    value = item.get("value")
    return next((value[key] for key in LABEL_KEYS if value.get(key)), None) if isinstance(value, dict) else None
