"""The controls of a labeling config: what is drawn with them, and which labels they know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from m2n2_backend.labelstudio.contract.label_config.task_value import TaskValue, as_written, at
from m2n2_backend.labelstudio.contract.models import KINDS

POINTERS = tuple(kind.names[1] for kind in KINDS if not kind.may_be_mask)
"""The shapes that Label Studio's smart tools draw."""

SILENT = tuple(kind.names[1] for kind in KINDS if kind.may_be_mask)
"""The shapes that are prompts where their control says so, although Label Studio (1.23.2) sends nothing for them."""

OutputKind = Literal["brush", "bitmask", "polygon", "rectangle"]

OUTPUT_KINDS: tuple[OutputKind, ...] = ("brush", "bitmask", "polygon", "rectangle")
"""The shapes that a mask can be shown as; where several controls know a label, the first shape is taken."""

_MOST_TASK_LABELS = 10_000


@dataclass(frozen=True, slots=True)
class Label:
    """A ``<Label>``.

    Attributes:
        value: The text that the annotator reads.
        alias: The name that regions hold instead; empty where they hold the value.
    """

    value: str
    alias: str = ""

    @property
    def sent(self) -> str:
        """The name that regions hold."""
        return self.alias or self.value


@dataclass(frozen=True, slots=True)
class Control:
    """A control of the labeling config that prompts, shows masks or holds labels.

    Attributes:
        name: Its ``name``; ``INDEX`` stands for the index of a ``<Repeater>``.
        tag: Its tag as it is written, for messages.
        labels: Its own labels.
        task_labels: Where the task's data hold further labels (``value="$labels"``), None where they hold none.
        allows_none: Whether a region may be without a label (``allowEmpty``).
        is_marked: Whether it says that it is the output (``m2n2="output"``).
    """

    name: str
    tag: str
    labels: tuple[Label, ...] = ()
    task_labels: TaskValue | None = None
    allows_none: bool = False
    is_marked: bool = False

    @property
    def type(self) -> str:
        """The ``type`` of its regions: ``brushlabels``, ``brush``, …."""
        return self.tag.lower()

    @property
    def shape(self) -> str:
        """The shape that is drawn with it: ``keypoint``, ``brush``, …."""
        return self.type.removesuffix("labels")

    @property
    def holds_labels(self) -> bool:
        """Whether it holds its labels itself; else a separate ``<Labels>`` does."""
        return self.type.endswith("labels")

    def at(self, index: int) -> Control:
        """The control as it stands at one index of its ``<Repeater>``."""
        labels = tuple(Label(at(one.value, index), at(one.alias, index)) for one in self.labels)
        of_task = None if self.task_labels is None else TaskValue(at(self.task_labels.text, index))
        return replace(self, name=at(self.name, index), labels=labels, task_labels=of_task)

    def __str__(self) -> str:
        """The control for messages, such as ``<BrushLabels name="brush">``."""
        return f'<{self.tag} name="{as_written(self.name)}">'


@dataclass(frozen=True, slots=True)
class Target:
    """A control that shows a mask, and the labels of its region.

    Attributes:
        control: The control; its name is the region's ``from_name``.
        labels: The labels that the control holds itself.
        separate: Names of ``<Labels>`` controls, each with its labels of the region.
    """

    control: Control
    labels: tuple[str, ...] = ()
    separate: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def name(self) -> str:
        """The region's ``from_name``."""
        return self.control.name

    @property
    def kind(self) -> OutputKind:
        """The shape that a mask is turned into."""
        return next(kind for kind in OUTPUT_KINDS if kind == self.control.shape)


class KnownLabels:
    """Which controls know a label, where some take their labels from the data of one task."""

    def __init__(self, data: object) -> None:
        """Set up the answer for a task with these data."""
        self._data = data
        self._of_task: dict[str, frozenset[object]] = {}

    def knows(self, control: Control, label: str) -> bool:
        """Whether a region of a control may hold a label."""
        if any(label == one.sent for one in control.labels):
            return True
        if control.task_labels is None:
            return False
        place = control.task_labels.text
        if place not in self._of_task:
            self._of_task[place] = _task_labels(control.task_labels.find(self._data))
        return label in self._of_task[place]


def _task_labels(value: object) -> frozenset[object]:
    """The labels that a task's data hold; the editor takes them from a list of objects alone."""
    value = value if isinstance(value, list) else []
    found = (one.get("alias") or one.get("value") for one in value[:_MOST_TASK_LABELS] if isinstance(one, Mapping))
    return frozenset(name for name in found if isinstance(name, str))
