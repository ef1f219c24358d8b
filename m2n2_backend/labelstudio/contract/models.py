"""What Label Studio 1.23 sends, as far as it is read: unknown fields are ignored, wrong ones named by their path."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from m2n2_backend.errors import InvalidRequest

MAX_ITEMS = 1000
"""Most prompts of one object; Label Studio sends the whole group with every click."""

MAX_LABELS = 100
"""Most labels of one prompt."""

MAX_TASKS = 100_000
"""Label Studio sends all that are selected in one request."""

POINTS = ("keypointlabels", "keypoint")
RECTANGLES = ("rectanglelabels", "rectangle")
BRUSHES = ("brushlabels", "brush")
BITMASKS = ("bitmasklabels", "bitmask")
ELLIPSES = ("ellipselabels", "ellipse")
POLYGONS = ("polygonlabels", "polygon")
SHAPES = (*BRUSHES, *BITMASKS, *ELLIPSES, *POLYGONS)
LABELS = "labels"

_LONGEST_SIDE = 1_000_000
_MOST_PAGES = 1_000_000


def _whole(value: object) -> object:
    """JSON knows one kind of number: 64.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _task_id(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[\w-]{1,64}", value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**63:
        return value
    raise PydanticCustomError("task_id", "must be a whole number, or letters, digits, _ and -, at most 64")


def _project(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and re.fullmatch(r"[\w.-]{0,64}", text):
        return text
    raise PydanticCustomError("project", "must be a whole number, or letters, digits, ., _ and -, at most 64")


Text = Annotated[str, Field(min_length=1)]
# The first mistake ends the reading of a list: a million of them would be a million complaints.
Texts = Annotated[list[Text], Field(max_length=MAX_LABELS, fail_fast=True)]
PointType = Annotated[Text, WithJsonSchema({"enum": list(POINTS)})]
RectangleType = Annotated[Text, WithJsonSchema({"enum": list(RECTANGLES)})]
ShapeType = Annotated[Text, WithJsonSchema({"enum": list(SHAPES)})]
LabelsType = Annotated[Text, WithJsonSchema({"const": LABELS})]
OtherType = Annotated[
    Text,
    WithJsonSchema({"type": "string", "minLength": 1, "not": {"enum": [*POINTS, *RECTANGLES, *SHAPES, LABELS]}}),
]
Degrees = Annotated[float, BeforeValidator(lambda value: value or 0.0)]
Whole = Annotated[int, BeforeValidator(_whole)]
Side = Annotated[Whole, Field(ge=1, le=_LONGEST_SIDE)]
TaskId = Annotated[
    int | str,
    BeforeValidator(_task_id),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^[\w-]{1,64}$"}]}),
]
Project = Annotated[
    str,
    BeforeValidator(_project),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^[\w.-]{1,64}$"}]}),
]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _absent_is_null(cls, value: object) -> object:
        """So that the complaint about a required field names the type that is wanted."""
        if not isinstance(value, dict):
            return value
        wanted = (field.alias or name for name, field in cls.model_fields.items() if field.is_required())
        return {**dict.fromkeys(wanted), **value}


LABEL_KEYS = (LABELS, *(kinds[0] for kinds in (POINTS, RECTANGLES, BRUSHES, BITMASKS, ELLIPSES, POLYGONS)))
"""Where a value holds its label."""


class Value(_Model):
    """What every prompt's value may hold: its label, under the name of its control's type or as ``labels``."""

    labels: Texts | None = None
    keypointlabels: Texts | None = None
    rectanglelabels: Texts | None = None
    brushlabels: Texts | None = None
    bitmasklabels: Texts | None = None
    ellipselabels: Texts | None = None
    polygonlabels: Texts | None = None

    @field_validator(*LABEL_KEYS, mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return value or None

    def labels_of(self, type: str) -> list[str]:
        """The labels under the name of an item's type; those under ``labels`` where there are none."""
        own = getattr(self, type.lower(), None) if type.lower() in LABEL_KEYS else None
        return own or next((found for key in LABEL_KEYS if (found := getattr(self, key))), [])


class PointValue(Value):
    """Of a key point, in percent of the image's sides, from its top-left corner."""

    x: float
    y: float


class RectangleValue(Value):
    """Of a rectangle, in percent; turned clockwise about its top-left corner by degrees."""

    x: float
    y: float
    width: float
    height: float
    rotation: Degrees = 0.0


class DrawnItem(_Model):
    """What all prompts have beside their value."""

    from_name: Text
    to_name: Text | None = None
    id: Text | None = None
    is_positive: bool | None = None
    item_index: Annotated[Whole, Field(ge=0, le=_MOST_PAGES)] | None = None
    original_width: Side
    original_height: Side
    image_rotation: Degrees = 0.0


class KeyPoint(DrawnItem):
    """A click with ``<KeyPoint>`` or ``<KeyPointLabels>``; a background one with Alt."""

    type: PointType
    value: PointValue


class Rectangle(DrawnItem):
    """A box drawn with ``<Rectangle>`` or ``<RectangleLabels>``."""

    type: RectangleType
    value: RectangleValue


class Shape(_Model):
    """A region that is a prompt where its control is smart, and is passed over unread where it shows masks."""

    model_config = ConfigDict(extra="allow")

    type: ShapeType
    from_name: Any = None


class Labels(_Model):
    """The second item of a prompt drawn with ``<Labels>``: of the same id, it holds the label."""

    type: LabelsType
    id: Any = None
    from_name: Any = None
    value: Value


class Other(_Model):
    """Whatever else is drawn in the editor; passed over, as its value may be large."""

    type: OtherType


def _kind(item: object) -> str:
    kind = str(item.get("type")).lower() if isinstance(item, dict) else ""
    if kind in SHAPES:
        return "shape"
    return "point" if kind in POINTS else "rectangle" if kind in RECTANGLES else kind if kind == LABELS else "other"


Item = Annotated[
    Annotated[KeyPoint, Tag("point")]
    | Annotated[Rectangle, Tag("rectangle")]
    | Annotated[Shape, Tag("shape")]
    | Annotated[Labels, Tag(LABELS)]
    | Annotated[Other, Tag("other")],
    Discriminator(_kind),
]
_TAGS = ("point", "rectangle", "shape", LABELS, "other")


class Context(_Model):
    """What the annotator has drawn for the object in work."""

    result: Annotated[list[Item], Field(max_length=MAX_ITEMS, fail_fast=True)] | None = None


class Params(_Model):
    """Of a request to /predict."""

    context: Context | None = None


class Task(TypedDict, total=False):
    """One task. Its annotations and drafts may be large, and are looked at only for ids.

    A dictionary, as a hundred thousand of them may come at once, of which each model would cost ten times its bytes.
    """

    id: TaskId | None
    data: dict[str, Any] | None
    annotations: Any
    drafts: Any


class PredictRequest(_Model):
    """Body of ``POST /predict``."""

    tasks: Annotated[list[Task], Field(max_length=MAX_TASKS, fail_fast=True)]
    params: Params | None = None
    label_config: str | None = None
    project: Project | None = None

    @property
    def items(self) -> list[KeyPoint | Rectangle | Shape | Labels | Other]:
        """The prompts; none where Label Studio asks without any (batch, opening a task)."""
        context = self.params.context if self.params else None
        return (context.result if context else None) or []


class SetupRequest(_Model):
    """Body of ``POST /setup``."""

    label_config: Text = Field(alias="schema")
    project: Project | None = None
    hostname: Any = None


class ColumnPoint(_Model):
    """A point in a column of the task's data, in pixels."""

    model_config = ConfigDict(extra="forbid")

    x: float
    y: float
    positive: bool = True
    label: Text | None = None


class ColumnBox(_Model):
    """A box in a column of the task's data, in pixels, without its last column and row."""

    model_config = ConfigDict(extra="forbid")

    x0: float
    y0: float
    x1: float
    y1: float
    label: Text | None = None


M = TypeVar("M", bound=BaseModel)


def read(model: type[M], value: object, path: str = "") -> M:
    """A JSON value as one of the models.

    Args:
        model: Of this module.
        value: Whatever was sent.
        path: Where the value stands, for messages; "" for the request itself.

    Raises:
        InvalidRequest: It is something else; the message names the path of the first wrong field and what it must be.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = path
    for part in first["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part not in _TAGS or not place.endswith("]"):
            place += f".{part}" if place else str(part)
    raise InvalidRequest(f"{place or 'the request'} {_complaint(first)}")


_WANTED = {
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "a non-empty string",
    "string_too_short": "a non-empty string",
    "float_type": "a number",
    "bool_type": "true or false",
    "int_type": "a whole number",
}


def _complaint(error: Any) -> str:
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "string_unicode":
        return "must be valid Unicode, without lone surrogates"
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_described(error['input'])}"
    if kind == "too_long":
        return f"has {context['actual_length']} entries, the limit is {context['max_length']}"
    if kind == "greater_than_equal":
        return f"must be a whole number of at least {context['ge']}"
    if kind == "less_than_equal":
        return f"must be a whole number of at most {context['le']}"
    if kind == "finite_number":
        return "must be a finite number"
    if kind == "extra_forbidden":
        return "is unknown: a point has x and y, a box x0, y0, x1 and y1"
    return str(error["msg"])


def _described(value: object) -> str:
    """A JSON value's kind in words, never the value: it may be long or private."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return "a list" if isinstance(value, list) else "an object"
