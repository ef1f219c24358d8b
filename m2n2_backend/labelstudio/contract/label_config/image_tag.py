"""An image of the labeling config, and which of the controls on it show the mask of a prompt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from xml.sax.saxutils import quoteattr

from m2n2_backend.errors import InvalidLabelConfig
from m2n2_backend.labelstudio.contract.label_config.controls import Control, KnownLabels, Target
from m2n2_backend.labelstudio.contract.label_config.task_value import TaskValue, as_written, at

_MOST_INDICES = 10_000
_LONGEST_SHOWN = 100

Groups = Mapping[str, Collection[str]]
"""Labels of a prompt, each with the names of the separate ``<Labels>`` controls in which it was selected."""


@dataclass(frozen=True, slots=True)
class ImageTag:
    """An ``<Image>`` and the controls on it.

    Attributes:
        name: Its ``name``, the regions' ``to_name``; ``INDEX`` stands for the index of a ``<Repeater>``.
        source: Where the task's data hold its address; None where the editor could not show a task's image.
        pages: Whether the data may hold a list of addresses there (``valueList``).
        repeated: The list that the ``<Repeater>`` around it counts; None outside of one.
        outputs: Controls that masks are returned to; the first one that knows a label is taken.
        groups: Controls that hold labels for others (``<Labels>``).
        prompts: Smart controls that are drawn with.
        renamed: The label of the only output where no prompt has a label that it knows: all prompts get it.
    """

    name: str
    source: TaskValue | None
    pages: bool = False
    repeated: TaskValue | None = None
    outputs: tuple[Control, ...] = ()
    groups: tuple[Control, ...] = ()
    prompts: tuple[Control, ...] = ()
    renamed: str | None = None

    def __str__(self) -> str:
        """The tag for messages, such as ``<Image name="image">``."""
        return f'<Image name="{as_written(self.name)}">'

    @property
    def holders(self) -> tuple[Control, ...]:
        """The controls that can hold the labels of a mask."""
        own = tuple(control for control in self.outputs if control.holds_labels)
        return own if len(own) == len(self.outputs) else (*own, *self.groups)

    @property
    def lacks_output(self) -> str:
        """The line to add where no control can show a mask."""
        return (
            'no control can show a mask: add <BrushLabels name="brush" '
            f'toName="{as_written(self.name)}" smart="false"> with your labels (or PolygonLabels, BitmaskLabels)'
        )

    def at(self, index: int) -> ImageTag:
        """The image and its controls as they stand at one index of the ``<Repeater>`` around them."""
        outputs, groups, prompts = (
            tuple(control.at(index) for control in controls) for controls in (self.outputs, self.groups, self.prompts)
        )
        renamed = None if self.renamed is None else at(self.renamed, index)
        name = at(self.name, index)
        return replace(self, name=name, outputs=outputs, groups=groups, prompts=prompts, renamed=renamed)

    def indices(self, data: object) -> Sequence[int | None]:
        """The indices of its ``<Repeater>`` in a task, or None alone outside of one."""
        if self.repeated is None:
            return (None,)
        items = self.repeated.find(data)
        return range(min(len(items), _MOST_INDICES)) if isinstance(items, list) else ()

    def addresses(self, data: object, index: int | None = None) -> Sequence[object]:
        """The addresses in a task's data, page by page; other values stand where there is no address."""
        value = self.source.find(data, index) if self.source else None
        if not isinstance(value, list):
            return (value,)
        return value if self.pages else value[:1]

    def targets(self, labels: Sequence[str], data: object, groups: Groups | None = None) -> tuple[Target, ...]:
        """The controls that show the mask of a prompt; several where no control knows all of its labels.

        Args:
            labels: The labels of the prompt, in their order; may be empty.
            data: The task's data, which may hold the labels of some controls.
            groups: The separate ``<Labels>`` that the prompt's labels come from, None where the prompt's own control
                holds them. Where several controls know a label, one that holds its labels in the same way is taken.

        Raises:
            InvalidLabelConfig: No control knows a label; the message names the control to change.
        """
        if not self.outputs:
            raise InvalidLabelConfig(self.lacks_output)
        known = KnownLabels(data)
        outputs = sorted(self.outputs, key=lambda one: (not one.is_marked, one.holds_labels == (groups is not None)))
        shown: dict[str, tuple[Control, list[str]]] = {}
        for label in labels:
            owner = next((one for one in outputs if self._can_hold(one, label, known)), None)
            if owner is None and self.renamed is not None:
                owner, label = outputs[0], self.renamed
            if owner is not None:
                shown.setdefault(owner.name, (owner, []))[1].append(label)
            elif not any(known.knows(group, label) for group in self.groups):
                raise InvalidLabelConfig(self._unknown(label))
        if not shown and labels:
            raise InvalidLabelConfig(self._unknown(labels[0]))
        if not shown:
            owner, only = self._for_no_label(outputs)
            shown[owner.name] = (owner, only)
        taken = {label for _, mine in shown.values() for label in mine}
        rest = [label for label in labels if label not in taken]
        return tuple(self._target(owner, [*mine, *rest], known, groups or {}) for owner, mine in shown.values())

    def _can_hold(self, output: Control, label: str, known: KnownLabels) -> bool:
        return any(known.knows(holder, label) for holder in ((output,) if output.holds_labels else self.groups))

    def _target(self, output: Control, labels: Iterable[str], known: KnownLabels, groups: Groups) -> Target:
        """A region of an output; labels that the output cannot hold are held by ``<Labels>`` controls."""
        labels = dict.fromkeys(labels)
        mine = tuple(label for label in labels if output.holds_labels and known.knows(output, label))
        separate: dict[str, list[str]] = {}
        for label in labels:
            able = [group.name for group in self.groups if known.knows(group, label)]
            # Groups may share a label; the region gets it in those in which it was selected.
            chosen = [name for name in able if name in groups.get(label, ())] or able[:1]
            for name in chosen if label not in mine else ():
                separate.setdefault(name, []).append(label)
        return Target(output, mine, tuple((name, tuple(h)) for name, h in separate.items()))

    def _for_no_label(self, outputs: Sequence[Control]) -> tuple[Control, list[str]]:
        """The output for a prompt without a label, and the only label that it can mean."""
        for output in outputs:
            if output.allows_none or not (output.holds_labels or self.groups):
                return output, []
        names = {label.sent for holder in self.holders for label in holder.labels}
        if len(names) == 1 and not any(holder.task_labels for holder in self.holders):
            return outputs[0], list(names)
        raise InvalidLabelConfig(
            f"the prompt has no label and {self.holders[0]} has several: select one before you click"
        )

    def _unknown(self, label: str) -> str:
        """Why no control can hold a label, and the line to change."""
        holders, name = (
            self.holders,
            quoteattr(label if len(label) <= _LONGEST_SHOWN else f"{label[:_LONGEST_SHOWN]}…"),
        )
        written = [
            (prompt, one) for prompt in (*self.prompts, *self.groups) for one in prompt.labels if one.sent == label
        ]
        known = [(holder, one) for holder in holders for one in holder.labels]
        for prompt, mine in written:
            for holder, one in known:
                if one.value == mine.value and one.alias != mine.alias:
                    alias, place = (mine.alias, holder) if mine.alias else (one.alias, prompt)
                    value = quoteattr(one.value)
                    return (
                        f"label {value} is {quoteattr(mine.sent)} in {prompt} and {quoteattr(one.sent)} in {holder}: "
                        f"write alias={quoteattr(alias)} in <Label value={value}> of {place} too"
                    )
        line = f"add <Label value={name}/>"
        if not holders:
            tag = self.outputs[0].tag
            return f"the prompt is labeled {name}, but {self.outputs[0]} holds no labels: use <{tag}Labels>"
        if len(holders) == 1:
            return f"label {name} is not in {holders[0]}: {line} there"
        places = ", ".join(map(str, holders[:5])) + (", …" if len(holders) > 5 else "")
        return f"label {name} is in none of {places}: {line} to the one it belongs to"
