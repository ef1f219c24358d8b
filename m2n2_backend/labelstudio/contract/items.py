"""The items of a request → its prompts, first as they were drawn, then in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m2n2_backend.errors import InvalidPrompt, InvalidRequest
from m2n2_backend.labelstudio.contract.drawn import DrawnItem
from m2n2_backend.labelstudio.contract.label_config import LabelConfig, ShownImage
from m2n2_backend.labelstudio.contract.label_config.image_tag import Groups
from m2n2_backend.labelstudio.contract.models import Item, Labels, OtherRegion, UnreadRegion
from m2n2_backend.labelstudio.contract.reading import MAX_LABELS
from m2n2_backend.labelstudio.contract.scribbles import DrawnStroke
from m2n2_backend.prompts import Click, PointPrompt, Prompts, Region, Scribble

MAX_CORNERS = 50_000
"""Corners of all polygons of a request, those of finished objects included, which Label Studio goes on to send."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One prompt.

    Attributes:
        path: Where it stands in the request, for messages.
        item: The prompt as it was sent.
        image: The image it was drawn on.
        labels: Its labels, also those of further items of the same id, in the order in which they were sent.
        groups: The separate ``<Labels>`` that its labels come from; None where its own control holds them.
    """

    path: str
    item: DrawnItem
    image: ShownImage
    labels: tuple[str, ...]
    groups: Groups | None

    @property
    def page(self) -> int:
        """The page, of a task with several, that it was drawn on."""
        return self.item.item_index or 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the image it was drawn on."""
        return self.item.original_width, self.item.original_height

    @property
    def is_stroke(self) -> bool:
        """Whether it is an image of its pixels, which has to be decoded."""
        return isinstance(self.item, DrawnStroke)


def drawn_prompts(items: Sequence[Item], config: LabelConfig) -> list[Drawn]:
    """The prompts in the order in which they were made, each once; masks and other types are passed over.

    Raises:
        InvalidRequest: A point or rectangle does not belong to a smart control of the config, or not to an image of
            it; or a stroke or shape of one cannot be read; or there are too many labels or corners.
    """
    separate = _separate_labels(items)
    drawn_with = [item for item in items if isinstance(item, DrawnItem)]
    ids = {item.id for item in drawn_with if config.is_prompt(item.from_name)} - {None}
    drawn: dict[str, Drawn] = {}
    corners = 0
    for index, item in enumerate(items):
        path = f"params.context.result[{index}]"
        # A label that is selected in a plain control of the same shape makes a second item of the prompt.
        if isinstance(item, DrawnItem) and item.id in ids and not config.is_prompt(item.from_name):
            continue
        prompt = _prompt(item, path, config)
        if prompt is None:
            continue
        corners += prompt.corners
        if corners > MAX_CORNERS:
            raise InvalidRequest(f"{path}: the polygons of the request have more than {MAX_CORNERS} corners")
        key = prompt.id or path
        twin = drawn.get(key)
        grouped = separate.get(key)
        found = dict.fromkeys((*(twin.labels if twin else ()), *_own_labels(prompt, grouped), *(grouped or ())))
        if len(found) > MAX_LABELS:
            raise InvalidRequest(f"{path} and the items of the same id have more than {MAX_LABELS} labels")
        try:
            image = config.shown(prompt.from_name, prompt.to_name)
        except InvalidRequest as error:
            raise InvalidRequest(f"{path}.{error}") from error
        drawn[key] = Drawn(path, prompt, image, tuple(found), grouped)
    return list(drawn.values())


def _separate_labels(items: Sequence[Item]) -> dict[str, dict[str, list[str]]]:
    """For each id, the labels of a separate ``<Labels>`` and the names of the controls that hold them.

    ``<KeyPoint>`` with ``<Labels>`` sends every point twice; the second item, of the same id, holds the label.
    """
    separate: dict[str, dict[str, list[str]]] = {}
    for item in items:
        if isinstance(item, Labels) and isinstance(item.id, str):
            for label in item.value.labels_of(item.type):
                separate.setdefault(item.id, {}).setdefault(label, []).append(str(item.from_name))
    return separate


def _own_labels(prompt: DrawnItem, grouped: Groups | None) -> list[str]:
    """The labels of the prompt's own control; without one, ``labels`` repeats those of a separate ``<Labels>``."""
    is_separate = grouped is not None and not prompt.type.lower().endswith("labels")
    return [] if is_separate else prompt.value.labels_of(prompt.type)


def _prompt(item: Item, path: str, config: LabelConfig) -> DrawnItem | None:
    if isinstance(item, Labels | OtherRegion):
        return None
    if isinstance(item, UnreadRegion):
        return item.read(path) if config.is_prompt(item.from_name) else None
    return item


def to_prompts(group: Sequence[Drawn], width: int, height: int) -> Prompts:
    """The prompts of one object in pixels of an image of ``width`` × ``height`` pixels.

    Strokes are decoded one after the other; meanwhile each takes a byte a pixel.

    Raises:
        InvalidPrompt: A prompt lies outside of the image, is empty or cannot be read; the message names its path.
    """
    clicks: list[PointPrompt] = []
    boxes: list[Region] = []
    for drawn in group:
        try:
            prompt = drawn.item.prompt(width, height)
            if isinstance(prompt, Click | Scribble):
                clicks.append(prompt)
            else:
                Prompts((), (prompt,)).check_inside(width, height)
                boxes.append(prompt)
        except InvalidPrompt as error:
            raise InvalidPrompt(f"{drawn.path}.value: {error}") from error
    return Prompts(tuple(clicks), tuple(boxes))
