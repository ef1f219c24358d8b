"""The labeling config → which controls hold work and which only prompts, the classes, and the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from m2n2_backend.errors import InvalidLabelConfig
from m2n2_backend.labelstudio.contract.label_config import OUTPUT_ATTRIBUTE, OUTPUT_VALUE, parse_label_config
from m2n2_backend.labelstudio.contract.xml_limits import require_small

Emitted = Literal["brush", "polygon", "rectangle", "keypoint"]
"""What the SDK's converter knows."""

TAGS: Mapping[Emitted, str] = {
    "rectangle": "RectangleLabels",
    "polygon": "PolygonLabels",
    "brush": "BrushLabels",
    "keypoint": "KeyPointLabels",
}

_OUTPUTS = ("brush", "bitmask", "polygon", "rectangle")
"""Kinds of controls that can show a mask; of several smart ones the first of this order is the output."""

_PROMPTS_UNASKED = ("keypoint", "rectangle")
"""Smart unless they say otherwise; the other kinds must say so to be prompts."""

_PROMPTS = (*_PROMPTS_UNASKED, "brush", "bitmask", "ellipse", "polygon")

Label = Mapping[str, str]
"""Attributes of a ``<Label>``."""


@dataclass(frozen=True, slots=True)
class Controls:
    """What an export needs to know of a labeling config.

    Attributes:
        prompts: Names of the controls whose regions are prompts, each with its tag for messages.
        key_points: Names of the key point controls that hold work, each with its labels.
        classes: The labels of all other controls that hold work, each once.
        images: Names of the images that work is drawn on, each with its key in the data of tasks.
        only_rectangles: The controls that hold work draw rectangles and nothing else.
    """

    prompts: Mapping[str, str]
    key_points: Mapping[str, Sequence[Label]]
    classes: Sequence[Label]
    images: Mapping[str, str]
    only_rectangles: bool

    @property
    def warnings(self) -> list[str]:
        """What the SDK's converter makes of the controls that surprises; a sentence each."""
        return [
            f'<KeyPointLabels name="{name}"> has no smart="true", so its key points are exported as work: the SDK\'s '
            'converter then writes a pose data set: COCO categories named "default", and a row of YOLO '
            "for each rectangle"
            for name in self.key_points
        ]


def read_controls(xml: str) -> Controls:
    """Read a labeling config; one that cannot answer clicks will do.

    A control that prompts holds no work, unless it is the one that masks go to. Where the config cannot answer
    clicks, only a control that says ``smart="true"`` prompts.

    Raises:
        InvalidLabelConfig: It is not XML, or larger than is parsed.
    """
    require_small(xml)
    root = ElementTree.fromstring(xml.lstrip())
    images = {
        tag.get("name", ""): (tag.get("valueList") or tag.get("value") or "").lstrip("$")
        for tag in root.iter()
        if tag.tag.lower() == "image"
    }
    controls = [tag for tag in root.iter() if tag.get("name") and set(_targets(tag)) & set(images)]
    prompts = _prompts(xml, controls)
    work = [control for control in controls if control.get("name") not in prompts]
    drawn_on = {target for control in work for target in _targets(control)}
    shared = [dict(label.attrib) for control in work if control.tag.lower() == "labels" for label in _labels(control)]
    points = {
        control.get("name", ""): [dict(label.attrib) for label in _labels(control)] or shared
        for control in work
        if _kind(control) == "keypoint"
    }
    holders = [control for control in work if _kind(control) != "keypoint"]
    classes = {name_of(label.attrib): dict(label.attrib) for control in holders for label in _labels(control)}
    kinds = {_kind(control) for control in work} & {*_OUTPUTS, "ellipse"}
    return Controls(
        prompts={control.get("name", ""): control.tag for control in controls if control.get("name") in prompts},
        key_points=points,
        classes=list(classes.values()),
        images={name: key for name, key in images.items() if name in drawn_on},
        only_rectangles=kinds <= {"rectangle"},
    )


def name_of(label: Label) -> str:
    """The name under which regions carry a label."""
    return label.get("alias") or label.get("value") or ""


def converter_config(controls: Controls, emitted: Mapping[str, Emitted], classes: Sequence[str]) -> str:
    """The config for the SDK's converter: one image, and the controls that regions belong to.

    Args:
        controls: The project's controls.
        emitted: Names of the controls, each with what its regions are given as.
        classes: Names that regions carry, which a config with labels from the tasks does not tell.
    """
    root = ElementTree.Element("View")
    ElementTree.SubElement(root, "Image", name="image", value="$image")
    known = {name_of(label): label for label in controls.classes}
    labels = [*known.values(), *({"value": name} for name in sorted(set(classes) - set(known)))]
    # Rectangles first: the converter takes the classes of a pose data set from them. And it wants each label once.
    for name in sorted(emitted, key=lambda name: list(TAGS).index(emitted[name])):
        tag = ElementTree.SubElement(root, TAGS[emitted[name]], name=name, toName="image")
        if emitted[name] == "keypoint":
            tag.extend(ElementTree.Element("Label", dict(label)) for label in controls.key_points.get(name, ()))
        else:
            tag.extend(ElementTree.Element("Label", dict(label)) for label in labels)
            labels = []
    return ElementTree.tostring(root, encoding="unicode")


def _prompts(xml: str, controls: Sequence[ElementTree.Element]) -> set[str]:
    try:
        found = set(parse_label_config(xml).prompts)
        answers_clicks = True
    except InvalidLabelConfig:
        found = set()
        answers_clicks = False
    for control in controls:
        said = control.get("smart", "").strip().lower()
        unasked = answers_clicks and said != "false" and _kind(control) in _PROMPTS_UNASKED
        if unasked or (said == "true" and _kind(control) in _PROMPTS):
            found.add(control.get("name", ""))
    found -= {
        control.get("name", "") for control in controls if control.get(OUTPUT_ATTRIBUTE, "").strip() == OUTPUT_VALUE
    }
    for image in {target for control in controls for target in _targets(control)}:
        able = [control for control in controls if image in _targets(control) and _kind(control) in _OUTPUTS]
        if able and all(control.get("name") in found for control in able):
            output = min(able, key=lambda control: _OUTPUTS.index(_kind(control)))
            found.remove(output.get("name", ""))
    return found


def _targets(control: ElementTree.Element) -> list[str]:
    return [name.strip() for name in control.get("toName", "").split(",")]


def _kind(control: ElementTree.Element) -> str:
    """<RectangleLabels> and <Rectangle> → rectangle."""
    return control.tag.lower().removesuffix("labels")


def _labels(control: ElementTree.Element) -> list[ElementTree.Element]:
    return [
        label
        for label in control.iter("Label")
        if name_of(label.attrib) and not label.get("value", "").startswith("$")
    ]
