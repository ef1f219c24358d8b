"""Saved annotations → regions with one label each; prompts, and answers of other kinds, are sorted out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from m2n2_backend.labelstudio.contract.models import kind_of
from m2n2_backend.labelstudio.contract.reading import objects_in

Json = dict[str, Any]

Kind = Literal["brush", "bitmask", "polygon", "ellipse", "rectangle", "keypoint"]

NO_LABEL = "no_label"
"""The class of regions without a label; the SDK's converter uses the same name."""

_LABELS = "labels"
_SHAPES: Mapping[str, Kind] = {
    "rle": "brush",
    "imageDataURL": "bitmask",
    "points": "polygon",
    "radiusX": "ellipse",
    "height": "rectangle",
    "x": "keypoint",
}
"""A key of a region's value → the shape that the value describes; the first key that is present counts."""

_ANSWERS = ("choices", "taxonomy", "textarea", "rating", "number", "datetime", "pairwise", "ranker", "relation")


@dataclass(frozen=True, slots=True)
class Region:
    """A shape on an image, with one label.

    Attributes:
        id: Label Studio's id; a region with two labels becomes two with the same id.
        control: Name of the control it was drawn with.
        kind: The shape that ``value`` describes.
        label: Its class.
        image: Name of the image it was drawn on.
        page: The page of the task that it was drawn on, counted from 0.
        width: The image's width in pixels.
        height: The image's height in pixels.
        value: The value that Label Studio stores, with lengths in percent of the image's sides.
        parent: Id of the region it belongs to, None where it has none.
        meta: What was returned with the region beside its shape; empty for a region that was drawn by hand.
        origin: Label Studio's word for where it comes from: manual, prediction or prediction-changed.
        parts: The regions that are this object, where it has several; ``value`` is then the first one's.
    """

    id: str
    control: str
    kind: Kind
    label: str
    image: str
    page: int
    width: int
    height: int
    value: Json
    parent: str | None
    meta: Json = field(default_factory=dict)
    origin: str = ""
    parts: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Sorted:
    """The items of an annotation.

    Attributes:
        kept: All items but the prompts.
        prompts: The number of saved prompts of each control.
    """

    kept: list[Json]
    prompts: Counter[str]


@dataclass(frozen=True, slots=True)
class Read:
    """The regions of an annotation.

    Attributes:
        regions: The regions that can be read.
        answers: Number of items that are not drawn on an image: choices, texts, relations.
        unreadable: Why each of the others cannot be read.
    """

    regions: list[Region]
    answers: int
    unreadable: list[str]


def without_prompts(result: object, prompts: Container[str]) -> Sorted:
    """Take the regions of the controls ``prompts`` out of an annotation, with their labels, answers and relations."""
    items = objects_in(result)
    found = [item for item in items if item.get("from_name") in prompts]
    rest = [item for item in items if item.get("from_name") not in prompts]
    # A mask that was accepted twice may share its id with the second one, which looks like a key point.
    gone = {item.get("id") for item in found} - {item.get("id") for item in rest if kind_of(item)} - {None}
    kept = [item for item in rest if not {item.get("id"), item.get("from_id"), item.get("to_id")} & gone]
    return Sorted(kept, Counter(str(item["from_name"]) for item in found))


def read_regions(items: Sequence[Json]) -> Read:
    """Read the items of an annotation without its prompts.

    ``<Brush>`` with ``<Labels>`` stores a region twice under one id, the second time with its label.
    """
    twins: dict[str, list[str]] = {}
    for item in items:
        if item.get("type") == _LABELS and item.get("id"):
            twins.setdefault(str(item["id"]), []).extend(_labels_of(item))
    drawn = {item["id"] for item in items if kind_of(item) and item.get("id")}
    regions: list[Region] = []
    unreadable: list[str] = []
    answers = 0
    for item in items:
        if item.get("type") == _LABELS and item.get("id") in drawn:
            continue
        if not _is_on_image(item):
            answers += 1
            continue
        try:
            regions += _regions(item, twins)
        except (KeyError, TypeError, ValueError) as error:
            unreadable.append(f"region {item.get('id')} ({item.get('type')}): {error}")
    return Read(regions, answers, unreadable)


def _regions(item: Json, twins: Mapping[str, Sequence[str]]) -> Iterator[Region]:
    value = item.get("value")
    if not isinstance(value, dict):
        raise ValueError("it has no value")
    kind = next((kind for key, kind in _SHAPES.items() if key in value), None)
    if kind is None or not (kind_of(item) or item.get("type") == _LABELS):
        raise ValueError("only JSON can hold regions of this type")
    width, height = _side(item.get("original_width")), _side(item.get("original_height"))
    page = item.get("item_index")
    # A region may have labels of its own control, and those of several separate ones.
    of_others = twins.get(str(item.get("id")), []) if item.get("type") != _LABELS else []
    for label in dict.fromkeys([*_labels_of(item), *of_others]) or [NO_LABEL]:
        yield Region(
            id=str(item.get("id")),
            control=str(item.get("from_name") or kind),
            kind=kind,
            label=label,
            image=str(item.get("to_name")),
            page=page if isinstance(page, int) else 0,
            width=width,
            height=height,
            value=value,
            parent=item.get("parentID"),
            meta=item["meta"] if isinstance(item.get("meta"), dict) else {},
            origin=str(item.get("origin") or ""),
        )


def _side(value: object) -> int:
    """Width or height of an image in pixels; JSON knows one kind of number."""
    if isinstance(value, (int, float)) and value > 0 and value == int(value):
        return int(value)
    raise ValueError("the size of its image is not stored")


def _labels_of(item: Json) -> list[str]:
    value = item.get("value")
    found = (value.get(str(item.get("type"))) or value.get(_LABELS)) if isinstance(value, dict) else None
    return list(dict.fromkeys(str(label) for label in found)) if isinstance(found, list) else []


def _is_on_image(item: Json) -> bool:
    """Whether an item is a region of an image; answers about a region repeat its size and shape."""
    return kind_of(item) is not None or ("original_width" in item and item.get("type") not in _ANSWERS)


def ranked_annotations(task: Json) -> list[Json]:
    """A task's annotations that were not skipped: the ground truth first, then from the newest on."""
    found = [one for one in objects_in(task.get("annotations")) if not one.get("was_cancelled")]
    return sorted(found, key=lambda one: (bool(one.get("ground_truth")), int(one["id"])), reverse=True)
