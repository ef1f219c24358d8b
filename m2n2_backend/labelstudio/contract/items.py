"""Label Studio's drawn prompts: key points and rectangles in percent → pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from m2n2_backend.errors import InvalidPrompt, InvalidRequest
from m2n2_backend.labelstudio.contract.label_config import LabelConfig
from m2n2_backend.labelstudio.contract.models import KeyPoint, Labels, Other, Rectangle
from m2n2_backend.prompts import Box, Click, Prompts, end_from_percent, pixel_from_percent

# Label Studio adds x and width as floating point numbers, each rounded on its own.
_SLACK_PERCENT = 0.01
_ROUNDING_PERCENT = 1e-6


@dataclass(frozen=True, slots=True)
class Drawn:
    """One prompt.

    Attributes:
        path: Where it stands in the request, for messages.
        item: As it was sent.
        label: Its own label, or that of the ``<Labels>`` item that belongs to it.
    """

    path: str
    item: KeyPoint | Rectangle
    label: str | None

    @property
    def page(self) -> int:
        """Of a task with several pages."""
        return self.item.item_index or 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the image it was drawn on."""
        return self.item.original_width, self.item.original_height


def drawn_prompts(items: Sequence[KeyPoint | Rectangle | Labels | Other], config: LabelConfig) -> list[Drawn]:
    """Points and rectangles in the order in which they were made, each once; other types are passed over.

    Raises:
        InvalidRequest: A prompt belongs to no smart control of the config.
    """
    # <KeyPoint> + <Labels> sends every point twice; the second item, of the same id, holds the label.
    labels = {item.id: item.value.label for item in items if isinstance(item, Labels) and isinstance(item.id, str)}
    drawn: dict[str, Drawn] = {}
    for index, item in enumerate(items):
        if isinstance(item, (KeyPoint, Rectangle)):
            path = f"params.context.result[{index}]"
            if item.from_name not in config.prompts:
                known = ", ".join(sorted(config.prompts))
                name = item.from_name[:100]
                raise InvalidRequest(
                    f'{path}.from_name "{name}" is no smart control of the labeling config (has: {known})'
                )
            label = item.value.label or (labels.get(item.id) if item.id else None)
            drawn[item.id or path] = Drawn(path, item, label)
    return list(drawn.values())


def to_prompts(group: Sequence[Drawn], width: int, height: int) -> Prompts:
    """Percent → pixels of an image of ``width`` × ``height`` pixels.

    Raises:
        InvalidPrompt: A coordinate lies outside of the image, or a rectangle is empty; the message names its path.
    """
    clicks: list[Click] = []
    boxes: list[Box] = []
    for drawn in group:
        try:
            if isinstance(drawn.item, KeyPoint):
                clicks.append(_click(drawn.item, width, height))
            else:
                boxes.append(_box(drawn.item, width, height))
        except InvalidPrompt as error:
            raise InvalidPrompt(f"{drawn.path}.value: {error}") from error
    return Prompts(tuple(clicks), tuple(boxes))


def _click(item: KeyPoint, width: int, height: int) -> Click:
    x = pixel_from_percent(_on_border(item.value.x, _ROUNDING_PERCENT), width)
    y = pixel_from_percent(_on_border(item.value.y, _ROUNDING_PERCENT), height)
    return Click(x, y, item.is_positive is not False)


def _box(item: Rectangle, width: int, height: int) -> Box:
    """The pixels a rectangle covers; of a rotated one its bounding box within the image."""
    value = item.value
    if value.width <= 0 or value.height <= 0:
        raise InvalidPrompt(f"the rectangle is empty ({value.width}% by {value.height}%)")
    left, top, right, bottom = value.x, value.y, value.x + value.width, value.y + value.height
    if value.rotation % 360:
        left, top, right, bottom = _turned(
            value.x, value.y, value.width, value.height, value.rotation, height / width
        )
        left, right = (min(max(side, 0.0), 100.0) for side in (left, right))
        top, bottom = (min(max(side, 0.0), 100.0) for side in (top, bottom))
        if left >= right or top >= bottom:
            raise InvalidPrompt("the rotated rectangle lies outside the image")
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
