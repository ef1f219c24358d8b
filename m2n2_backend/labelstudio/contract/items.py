"""Label Studio's drawn prompts: key points, strokes, rectangles and other shapes in percent → pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m2n2_backend.errors import InvalidPrompt, InvalidRequest
from m2n2_backend.labelstudio.contract import shapes
from m2n2_backend.labelstudio.contract.label_config import LabelConfig, ShownImage
from m2n2_backend.labelstudio.contract.label_config.image_tag import Groups
from m2n2_backend.labelstudio.contract.models import MAX_LABELS, KeyPoint, Labels, Other, Rectangle, Shape
from m2n2_backend.labelstudio.contract.shapes import Bitmask, Brush, DrawnPolygon, Ellipse
from m2n2_backend.prompts import Box, Click, PointPrompt, Prompts, Region, end_from_percent, pixel_from_percent

Prompt = KeyPoint | Rectangle | Brush | Bitmask | Ellipse | DrawnPolygon

MAX_CORNERS = 50_000
"""Corners of all polygons of a request, those of finished objects included, which Label Studio goes on to send."""

# Label Studio adds x and width as floating point numbers, each rounded on its own.
_SLACK_PERCENT = 0.01
_ROUNDING_PERCENT = 1e-6


@dataclass(frozen=True, slots=True)
class Drawn:
    """One prompt.

    Attributes:
        path: Where it stands in the request, for messages.
        item: As it was sent.
        image: The image it was drawn on.
        labels: Its labels, also those of further items of the same id, in the order in which they were sent.
        groups: The separate ``<Labels>`` that its labels come from; None where its own control holds them.
    """

    path: str
    item: Prompt
    image: ShownImage
    labels: tuple[str, ...]
    groups: Groups | None

    @property
    def page(self) -> int:
        """Of a task with several pages."""
        return self.item.item_index or 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the image it was drawn on."""
        return self.item.original_width, self.item.original_height

    @property
    def is_stroke(self) -> bool:
        """Whether it is the code of pixels, which has to be read."""
        return isinstance(self.item, Brush | Bitmask)


def drawn_prompts(items: Sequence[KeyPoint | Rectangle | Shape | Labels | Other], config: LabelConfig) -> list[Drawn]:
    """The prompts in the order in which they were made, each once; masks and other types are passed over.

    Raises:
        InvalidRequest: A point or rectangle does not belong to a smart control of the config, or not to an image of
            it; or a stroke or shape of one cannot be read; or there are too
            many labels or corners.
    """
    # <KeyPoint> + <Labels> sends every point twice; the second item, of the same id, holds the label.
    separate: dict[str, dict[str, list[str]]] = {}
    for item in items:
        if isinstance(item, Labels) and isinstance(item.id, str):
            for label in item.value.labels_of(item.type):
                separate.setdefault(item.id, {}).setdefault(label, []).append(str(item.from_name))
    drawn_with = [item for item in items if isinstance(item, KeyPoint | Rectangle)]
    ids = {item.id for item in drawn_with if config.is_prompt(item.from_name)} - {None}
    drawn: dict[str, Drawn] = {}
    corners = 0
    for index, item in enumerate(items):
        path = f"params.context.result[{index}]"
        # A label that is selected in a plain control of the same shape makes a second item of the prompt.
        if isinstance(item, KeyPoint | Rectangle) and item.id in ids and not config.is_prompt(item.from_name):
            continue
        prompt = _prompt(item, path, config)
        if isinstance(prompt, DrawnPolygon):
            corners += len(prompt.value.points)
            if corners > MAX_CORNERS:
                raise InvalidRequest(f"{path}: the polygons of the request have more than {MAX_CORNERS} corners")
        if prompt is not None:
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


def _own_labels(prompt: Prompt, grouped: Groups | None) -> list[str]:
    """The labels of the prompt's own control; without one, ``labels`` repeats those of a separate ``<Labels>``."""
    is_separate = grouped is not None and not prompt.type.lower().endswith("labels")
    return [] if is_separate else prompt.value.labels_of(prompt.type)


def _prompt(item: KeyPoint | Rectangle | Shape | Labels | Other, path: str, config: LabelConfig) -> Prompt | None:
    if isinstance(item, Labels | Other):
        return None
    if isinstance(item, Shape):
        return shapes.as_prompt(item, path) if config.is_prompt(item.from_name) else None
    return item


def to_prompts(group: Sequence[Drawn], width: int, height: int) -> Prompts:
    """Percent and codes → pixels of an image of ``width`` × ``height`` pixels.

    Strokes are read one after the other, and take room for a byte a pixel meanwhile.

    Raises:
        InvalidPrompt: A prompt lies outside of the image, is empty or cannot be read; the message names its path.
    """
    clicks: list[PointPrompt] = []
    boxes: list[Region] = []
    for drawn in group:
        try:
            match drawn.item:
                case KeyPoint():
                    clicks.append(_click(drawn.item, width, height))
                case Brush() | Bitmask():
                    clicks.append(shapes.scribble(drawn.item, width, height))
                case Rectangle():
                    boxes.append(_box(drawn.item, width, height))
                case Ellipse():
                    boxes.append(shapes.ellipse(drawn.item, width, height))
                case DrawnPolygon():
                    boxes.append(shapes.polygon(drawn.item, width, height))
            Prompts((), tuple(boxes[-1:])).check_inside(width, height)
        except InvalidPrompt as error:
            raise InvalidPrompt(f"{drawn.path}.value: {error}") from error
    return Prompts(tuple(clicks), tuple(boxes))


def _click(item: KeyPoint, width: int, height: int) -> Click:
    x = pixel_from_percent(_on_border(item.value.x, _ROUNDING_PERCENT), width)
    y = pixel_from_percent(_on_border(item.value.y, _ROUNDING_PERCENT), height)
    return Click(x, y, item.is_positive is not False)


def _box(item: Rectangle, width: int, height: int) -> Region:
    """The pixels a rectangle covers; a turned one is a shape of its own."""
    value = item.value
    if value.width <= 0 or value.height <= 0:
        raise InvalidPrompt(f"the rectangle is empty ({value.width}% by {value.height}%)")
    if value.rotation % 360:
        return shapes.turned(item, width, height)
    left, top, right, bottom = value.x, value.y, value.x + value.width, value.y + value.height
    left, top, right, bottom = (_on_border(side, _SLACK_PERCENT) for side in (left, top, right, bottom))
    return Box(
        pixel_from_percent(left, width),
        pixel_from_percent(top, height),
        end_from_percent(right, width),
        end_from_percent(bottom, height),
    )


def _on_border(percent: float, slack: float) -> float:
    """A coordinate that lies outside by no more than rounding does."""
    is_close = -slack < percent <= 100 + slack
    return min(max(percent, 0.0), 100.0) if is_close else percent
