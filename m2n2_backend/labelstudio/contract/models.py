"""What Label Studio 1.23 sends, as far as it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from m2n2_backend.labelstudio.contract.drawn import DrawnItem, DrawnPolygon, Ellipse, KeyPoint, Rectangle, Value
from m2n2_backend.labelstudio.contract.reading import TAG, Model, Text, read
from m2n2_backend.labelstudio.contract.scribbles import Bitmask, Brush

MAX_ITEMS = 1000
"""Most prompts of one object; Label Studio sends the whole group with every click."""

MAX_TASKS = 100_000
"""Most tasks of a request: Label Studio sends all that are selected in one."""

KINDS: tuple[type[DrawnItem], ...] = (KeyPoint, Rectangle, Brush, Bitmask, Ellipse, DrawnPolygon)
"""All kinds of prompts that can be drawn."""

LABELS = "labels"
_BY_NAME = {name: kind for kind in KINDS for name in kind.names}


def kind_of(item: Mapping[str, Any]) -> type[DrawnItem] | None:
    """The kind of prompt that a region's ``type`` names, None where it names another thing."""
    return _BY_NAME.get(str(item.get("type")).lower())


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
_UNREAD = [name for kind in KINDS if kind.may_be_mask for name in kind.names]


class UnreadRegion(Model):
    """A region that is a prompt where its control is smart, and is passed over where it shows a mask."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[Text, WithJsonSchema({"enum": _UNREAD})]
    from_name: Any = None

    def read(self, path: str) -> DrawnItem:
        """The prompt.

        Raises:
            InvalidRequest: See :func:`~m2n2_backend.labelstudio.contract.reading.read`.
        """
        item = {**(self.model_extra or {}), "type": self.type, "from_name": self.from_name}
        return read(_BY_NAME[self.type.lower()], item, path)


class Labels(Model):
    """The second item of a prompt drawn with ``<Labels>``: it has the same id, and holds the labels."""

    type: Annotated[Text, WithJsonSchema({"const": LABELS})]
    id: Any = None
    from_name: Any = None
    value: Value


class OtherRegion(Model):
    """Anything else that is drawn in the editor; passed over, as its value may be large."""

    type: Annotated[Text, WithJsonSchema({"type": "string", "minLength": 1, "not": {"enum": [*_BY_NAME, LABELS]}})]


def _tag(item: object) -> str:
    if not isinstance(item, dict):
        return f"{TAG}other"
    if (kind := kind_of(item)) is not None:
        return f"{TAG}unread" if kind.may_be_mask else f"{TAG}{kind.names[1]}"
    return f"{TAG}labels" if str(item.get("type")).lower() == LABELS else f"{TAG}other"


Item = KeyPoint | Rectangle | UnreadRegion | Labels | OtherRegion
_TaggedItem = Annotated[
    Annotated[KeyPoint, Tag(f"{TAG}keypoint")]
    | Annotated[Rectangle, Tag(f"{TAG}rectangle")]
    | Annotated[UnreadRegion, Tag(f"{TAG}unread")]
    | Annotated[Labels, Tag(f"{TAG}labels")]
    | Annotated[OtherRegion, Tag(f"{TAG}other")],
    Discriminator(_tag),
]


class Context(Model):
    """What the annotator has drawn for the object in work."""

    result: Annotated[list[_TaggedItem], Field(max_length=MAX_ITEMS, fail_fast=True)] | None = None


class Params(Model):
    """The ``params`` of a request to /predict."""

    context: Context | None = None


class PredictTask(TypedDict, total=False):
    """One task. Its annotations and drafts may be large, and are looked at only for ids.

    It is a dictionary, because a request may hold a hundred thousand, and a model takes ten times the bytes.
    """

    id: TaskId | None
    data: dict[str, Any] | None
    annotations: Any
    drafts: Any


class PredictRequest(Model):
    """The body of ``POST /predict``."""

    tasks: Annotated[list[PredictTask], Field(max_length=MAX_TASKS, fail_fast=True)]
    params: Params | None = None
    label_config: str | None = None
    project: Project | None = None

    @property
    def items(self) -> list[Item]:
        """The prompts; none where Label Studio asks without any (batch, opening a task)."""
        context = self.params.context if self.params else None
        return (context.result if context else None) or []


class SetupRequest(Model):
    """The body of ``POST /setup``."""

    label_config: Text = Field(alias="schema")
    project: Project | None = None
    hostname: Any = None
