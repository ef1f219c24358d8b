"""The labeling config → the controls that hold work, those that hold prompts, the classes and the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from m2n2_backend.labelstudio.contract.label_config import ImageTag
from m2n2_backend.labelstudio.contract.label_config.controls import OUTPUT_KINDS
from m2n2_backend.labelstudio.contract.label_config.names import Named
from m2n2_backend.labelstudio.contract.label_config.parser import images_of, to_names
from m2n2_backend.labelstudio.contract.label_config.tags import ConfigTag, read_tags
from m2n2_backend.labelstudio.contract.label_config.task_value import INDEX, as_written, at

Emitted = Literal["brush", "polygon", "rectangle", "keypoint"]
"""The shapes that the SDK's converter knows."""

TAGS: Mapping[Emitted, str] = {
    "rectangle": "RectangleLabels",
    "polygon": "PolygonLabels",
    "brush": "BrushLabels",
    "keypoint": "KeyPointLabels",
}

Label = Mapping[str, str]
"""The attributes of a ``<Label>``."""


@dataclass(frozen=True, slots=True)
class Controls:
    """The parts of a labeling config that an export needs.

    Attributes:
        prompts: The names of the controls whose regions are prompts, each with its tag.
        key_points: Names of the key point controls that hold work, each with its labels.
        classes: The labels of all other controls that hold work, each once.
        images: The images that work is drawn on.
        only_rectangles: The controls that hold work draw rectangles and nothing else.
    """

    prompts: Named[str]
    key_points: Named[Sequence[Label]]
    classes: Sequence[Label]
    images: Sequence[ImageTag]
    only_rectangles: bool

    def shown(self, data: object) -> Iterator[tuple[str, int, str]]:
        """The images of a task: name of the tag, page and address, which is empty where the data hold none."""
        for image in self.images:
            for index in image.indices(data):
                for page, address in enumerate(image.addresses(data, index)):
                    yield at(image.name, index), page, address if isinstance(address, str) else ""

    @property
    def warnings(self) -> list[str]:
        """Surprising results of the SDK's converter for these controls; a sentence each."""
        return [
            f'<KeyPointLabels name="{as_written(name)}"> has no smart="true", so its key points are exported as '
            'work: the SDK\'s converter then writes a pose data set: COCO categories named "default", and a row of '
            "YOLO for each rectangle"
            for name in self.key_points.known
        ]


def read_controls(xml: str) -> Controls:
    """Read a labeling config, also one with which clicks cannot be answered.

    A control that prompts holds no work, unless it is the one that masks go to. Where the config cannot answer
    clicks, only a control that says ``smart="true"`` prompts.

    Raises:
        InvalidLabelConfig: It is not XML, or larger than is parsed.
    """
    tags = read_tags(xml)
    images = images_of(tags)
    answers_clicks = any(image.prompts and image.outputs for image in images)
    smart = {one.name for image in images for one in image.prompts if one not in image.outputs}
    asked = {tag.name for tag in tags if tag.attributes.get("smart", "").strip().lower() == "true"}
    # Boxes are often drawn by hand with a control that says nothing, and are smart by Label Studio's default alone.
    boxes = {tag.name for tag in tags if _shape(tag) == "rectangle"}
    prompts = (smart - boxes if answers_clicks else set()) | (smart & asked)
    only = images[0].name if len(images) == 1 else None
    names = {image.name for image in images}
    work = [tag for tag in tags if tag.name not in prompts and tag.kind != "image" and names & {*to_names(tag, only)}]
    shared = [dict(label) for tag in work if tag.kind == "labels" for label in _labels(tag)]
    holders = [tag for tag in work if _shape(tag) != "keypoint"]
    drawn_on = {name for tag in work for name in to_names(tag, only)}
    return Controls(
        prompts=Named({tag.name: tag.tag for tag in tags if tag.name in prompts}),
        key_points=Named({tag.name: _labels(tag) or shared for tag in work if _shape(tag) == "keypoint"}),
        classes=list({name_of(label): label for tag in holders for label in _labels(tag)}.values()),
        images=[image for image in images if image.name in drawn_on],
        only_rectangles={_shape(tag) for tag in work} & {*OUTPUT_KINDS, "ellipse"} <= {"rectangle"},
    )


def name_of(label: Label) -> str:
    """The name under which regions carry a label."""
    return label.get("alias") or label.get("value") or ""


def converter_config(controls: Controls, emitted: Mapping[str, Emitted], classes: Sequence[str]) -> str:
    """The config for the SDK's converter: one image, and the controls that regions belong to.

    Args:
        emitted: Names of the controls, each with the shape that its regions are given as.
        classes: The labels of all regions, which a config with labels from the tasks does not hold.
    """
    root = ElementTree.Element("View")
    ElementTree.SubElement(root, "Image", name="image", value="$image")
    known = {name_of(label): label for label in controls.classes}
    labels = [*known.values(), *({"value": name} for name in sorted(set(classes) - set(known)))]
    # Rectangles first: the converter takes the classes of a pose data set from them. And it wants each label once.
    for name in sorted(emitted, key=lambda name: list(TAGS).index(emitted[name])):
        tag = ElementTree.SubElement(root, TAGS[emitted[name]], name=name, toName="image")
        if emitted[name] == "keypoint":
            tag.extend(ElementTree.Element("Label", dict(label)) for label in controls.key_points[name])
        else:
            tag.extend(ElementTree.Element("Label", dict(label)) for label in labels)
            labels = []
    return ElementTree.tostring(root, encoding="unicode")


def _shape(tag: ConfigTag) -> str:
    """<RectangleLabels> and <Rectangle> → rectangle."""
    return tag.kind.removesuffix("labels")


def _labels(tag: ConfigTag) -> list[Label]:
    """The labels that are the same everywhere; those that hold a ``<Repeater>``'s index are found in the regions."""
    named = [one for one in tag.labels if name_of(one) and INDEX not in name_of(one)]
    return [
        {name: as_written(text) for name, text in one.items()}
        for one in named
        if not one.get("value", "").startswith("$")
    ]
