"""Label Studio's drawn prompts, one by one: key points and rectangles in percent → pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2n2_backend.errors import InvalidPrompt, InvalidRequest
from m2n2_backend.labelstudio.contract.fields import as_count, as_list, as_number, as_object, as_text
from m2n2_backend.labelstudio.contract.label_config import LabelConfig
from m2n2_backend.prompts import Box, Click, Prompts, end_from_percent, pixel_from_percent

_POINTS = ("keypointlabels", "keypoint")
_RECTANGLES = ("rectanglelabels", "rectangle")
_LONGEST_SIDE = 1_000_000
_MOST_PAGES = 1_000_000
# Label Studio adds x and width as floating point numbers, each rounded on its own.
_SLACK_PERCENT = 0.01


@dataclass(frozen=True, slots=True)
class Item:
    """One drawn prompt; everything but ``value`` is checked.

    Attributes:
        path: Where it stands in the request, for messages.
        id: Label Studio's id of it, None where it was not sent.
        is_point: A key point, else a rectangle.
        value: Its coordinates in percent.
        positive: Foreground; rectangles always are.
        label: The prompt's own label.
        item_index: Its page.
        size: Width and height in pixels of the image it was drawn on.
        rotation: The view's rotation in degrees.
    """

    path: str
    id: str | None
    is_point: bool
    value: Mapping[str, Any]
    positive: bool
    label: str | None
    item_index: int | None
    size: tuple[int, int]
    rotation: float


def drawn_items(items: Sequence[Any], config: LabelConfig) -> list[Item]:
    """Points and rectangles in the order in which they were made, each once; other types are passed over.

    Raises:
        InvalidRequest: A field is missing or has the wrong type; the message names its path.
    """
    paths = [f"params.context.result[{index}]" for index in range(len(items))]
    objects = [(as_object(item, path), path) for item, path in zip(items, paths, strict=True)]
    types = [as_text(item.get("type"), f"{path}.type").lower() for item, path in objects]
    # <KeyPoint> + <Labels> sends every point twice; the second item, of the same id, holds the label.
    labels = {
        item.get("id"): _label(as_object(item.get("value"), f"{path}.value"), path)
        for (item, path), kind in zip(objects, types, strict=True)
        if kind == "labels" and isinstance(item.get("id"), str)
    }
    drawn: dict[str, Item] = {}
    for (item, path), kind in zip(objects, types, strict=True):
        if kind in _POINTS or kind in _RECTANGLES:
            read = _item(item, path, kind, labels, config)
            drawn[read.id or path] = read
    return list(drawn.values())


def _item(
    item: Mapping[str, Any], path: str, kind: str, labels: Mapping[Any, str | None], config: LabelConfig
) -> Item:
    name = as_text(item.get("from_name"), f"{path}.from_name")
    if name not in config.prompts:
        known = ", ".join(sorted(config.prompts))
        raise InvalidRequest(f'{path}.from_name "{name}" is no smart control of the labeling config (has: {known})')
    identity = None if item.get("id") is None else as_text(item["id"], f"{path}.id")
    positive = item.get("is_positive")
    if positive is not None and not isinstance(positive, bool):
        raise InvalidRequest(f"{path}.is_positive must be true or false")
    page = item.get("item_index")
    if page is not None:
        page = as_count(page, f"{path}.item_index", least=0, most=_MOST_PAGES)
    value = as_object(item.get("value"), f"{path}.value")
    width = as_count(item.get("original_width"), f"{path}.original_width", least=1, most=_LONGEST_SIDE)
    height = as_count(item.get("original_height"), f"{path}.original_height", least=1, most=_LONGEST_SIDE)
    return Item(
        path=path,
        id=identity,
        is_point=kind in _POINTS,
        value=value,
        positive=positive is not False,
        label=_label(value, path) or labels.get(identity),
        item_index=page,
        size=(width, height),
        rotation=as_number(item.get("image_rotation") or 0, f"{path}.image_rotation"),
    )


def _label(value: Mapping[str, Any], path: str) -> str | None:
    for key in ("labels", "keypointlabels", "rectanglelabels"):
        if value.get(key):
            return as_text(as_list(value[key], f"{path}.value.{key}")[0], f"{path}.value.{key}[0]")
    return None


def to_prompts(group: Sequence[Item], width: int, height: int) -> Prompts:
    """Percent → pixels of an image of ``width`` × ``height`` pixels.

    Raises:
        InvalidRequest: A coordinate is missing or no number.
        InvalidPrompt: A coordinate lies outside of the image, or a rectangle is empty.
    """
    clicks = tuple(_click(item, width, height) for item in group if item.is_point)
    boxes = tuple(_box(item, width, height) for item in group if not item.is_point)
    return Prompts(clicks, boxes)


def _click(item: Item, width: int, height: int) -> Click:
    x, y = (as_number(item.value.get(axis), f"{item.path}.value.{axis}") for axis in "xy")
    try:
        return Click(pixel_from_percent(x, width), pixel_from_percent(y, height), item.positive)
    except InvalidPrompt as error:
        raise InvalidPrompt(f"{item.path}.value: {error}") from error


def _box(item: Item, width: int, height: int) -> Box:
    """The pixels a rectangle covers; of a rotated one its bounding box within the image."""
    fields = ("x", "y", "width", "height")
    x, y, across, down = (as_number(item.value.get(name), f"{item.path}.value.{name}") for name in fields)
    rotation = as_number(item.value.get("rotation") or 0, f"{item.path}.value.rotation")
    if across <= 0 or down <= 0:
        raise InvalidPrompt(f"{item.path}.value: the rectangle is empty ({across}% by {down}%)")
    left, top, right, bottom = x, y, x + across, y + down
    if rotation % 360:
        left, top, right, bottom = _turned(x, y, across, down, rotation, height / width)
        left, right = (min(max(side, 0.0), 100.0) for side in (left, right))
        top, bottom = (min(max(side, 0.0), 100.0) for side in (top, bottom))
        if left >= right or top >= bottom:
            raise InvalidPrompt(f"{item.path}.value: the rotated rectangle lies outside the image")
    right, bottom = (100.0 if 100 < side <= 100 + _SLACK_PERCENT else side for side in (right, bottom))
    try:
        return Box(
            pixel_from_percent(left, width),
            pixel_from_percent(top, height),
            end_from_percent(right, width),
            end_from_percent(bottom, height),
        )
    except InvalidPrompt as error:
        raise InvalidPrompt(f"{item.path}.value: {error}") from error


def _turned(
    x: float, y: float, across: float, down: float, degrees: float, aspect: float
) -> tuple[float, float, float, float]:
    """Bounding box, in percent, of a rectangle turned clockwise about its top-left corner.

    ``aspect`` is the image's height / width: percent of x and of y are different lengths, and it is pixels
    that are turned.
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(0.0, 0.0), (across, 0.0), (0.0, down), (across, down)]
    xs = [x + dx * cosine - dy * aspect * sine for dx, dy in corners]
    ys = [y + dx / aspect * sine + dy * cosine for dx, dy in corners]
    return min(xs), min(ys), max(xs), max(ys)
