"""The text of a labeling config → its model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from m2n2_backend.errors import InvalidLabelConfig
from m2n2_backend.labelstudio.contract.label_config.controls import OUTPUT_KINDS, POINTERS, SILENT, Control, Label
from m2n2_backend.labelstudio.contract.label_config.image_tag import ImageTag
from m2n2_backend.labelstudio.contract.label_config.model import LabelConfig
from m2n2_backend.labelstudio.contract.label_config.problems import hints_of, problems_of, warnings_of
from m2n2_backend.labelstudio.contract.label_config.tags import ConfigTag, read_tags
from m2n2_backend.labelstudio.contract.label_config.task_value import TaskValue, as_written

OUTPUT_ATTRIBUTE = "m2n2"
OUTPUT_VALUE = "output"
"""``<PolygonLabels … m2n2="output">`` is the control masks are returned to where several know a label."""

_GROUP = "labels"
_MOST_TOLD = 20
_DRAWN = frozenset(name for shape in (*POINTERS, *SILENT) for name in (shape, f"{shape}labels"))


def parse_label_config(xml: str) -> LabelConfig:
    """Read a labeling config.

    Returns:
        The model. It may have problems, which refuse some prompts; see :meth:`LabelConfig.require_sound`.

    Raises:
        InvalidLabelConfig: The text is not XML, has a document type declaration or is too large, or no prompt at all
            could be answered; the message names the line to add.
    """
    tags = read_tags(xml)
    controls = [tag for tag in tags if tag.kind in _DRAWN or tag.kind == _GROUP]
    _require_one_output(controls)
    images = images_of(tags)
    _require_prompts_and_outputs(images, controls)
    return LabelConfig(
        images,
        problems=tuple(islice(problems_of(images, tags), _MOST_TOLD)),
        warnings=tuple(islice(warnings_of(images, {one.name for one in controls if is_smart(one)}), _MOST_TOLD)),
        hints=tuple(islice(hints_of(images), _MOST_TOLD)),
    )


def images_of(tags: Sequence[ConfigTag]) -> list[ImageTag]:
    """The images of a config with the controls on them, whether clicks on them could be answered or not."""
    controls = [tag for tag in tags if tag.kind in _DRAWN or tag.kind == _GROUP]
    only = next((tag.name for tag in tags if tag.kind == "image"), None) if len(_objects(tags)) == 1 else None
    drawn_on = [(one, frozenset(to_names(one, only))) for one in controls]
    made = {one.name: _control(one) for one in controls}
    return [
        _image(tag, [one for one, names in drawn_on if tag.name in names], made)
        for tag in tags
        if tag.kind == "image"
    ]


def is_smart(tag: ConfigTag) -> bool:
    """Whether the editor makes a smart tool for a control; by default it does."""
    return tag.attributes.get("smart", "true").strip().lower() != "false"


def _objects(tags: Iterable[ConfigTag]) -> list[ConfigTag]:
    """The tags of what is annotated: images, texts and so on."""
    return [
        tag
        for tag in tags
        if tag.kind == "image"
        or (
            TaskValue.of(tag.attributes.get("value"))
            and not (tag.kind.endswith(_GROUP) or "toname" in tag.attributes)
        )
    ]


def to_names(tag: ConfigTag, only: str | None = None) -> list[str]:
    """The images of a control; the editor fills in the only one where none is written."""
    written = tag.attributes.get("toname", "")
    return [name.strip() for name in written.split(",")] if written else [only] if only else []


def _is_prompt(tag: ConfigTag) -> bool:
    """Whether what is drawn with it is a prompt; strokes, ellipses and polygons, often drawn by hand, must say so."""
    shape = tag.kind.removesuffix("labels")
    return is_smart(tag) and (shape in POINTERS or (shape in SILENT and "smart" in tag.attributes))


def _is_marked(tag: ConfigTag) -> bool:
    return tag.attributes.get(OUTPUT_ATTRIBUTE, "").strip() == OUTPUT_VALUE


def _image(tag: ConfigTag, on_image: Sequence[ConfigTag], made: Mapping[str, Control]) -> ImageTag:
    """An image with the controls on it."""
    able = [one for one in on_image if one.kind.removesuffix("labels") in OUTPUT_KINDS]
    able.sort(key=lambda one: (not _is_marked(one), OUTPUT_KINDS.index(one.kind.removesuffix("labels"))))
    # A smart control is a prompt; it shows the answer only where no other control can, and a rectangle last of all.
    shapes = [one for one in able if not one.kind.startswith("rectangle")]
    outputs = [one for one in able if not _is_prompt(one) or _is_marked(one)] or shapes or able
    names = {one.name for one in outputs}
    prompts = [
        one
        for one in on_image
        if _is_prompt(one) and (one.name not in names or one.kind.removesuffix("labels") in POINTERS)
    ]
    values, pages = tag.attributes.get("valuelist"), True
    if values is None:
        values, pages = tag.attributes.get("value"), False
    image = ImageTag(
        name=tag.name,
        source=TaskValue.of(values),
        pages=pages,
        repeated=None if tag.repeated is None else TaskValue(tag.repeated),
        outputs=tuple(made[one.name] for one in outputs),
        groups=tuple(made[one.name] for one in on_image if one.kind == _GROUP),
        prompts=tuple(made[one.name] for one in prompts),
    )
    return replace(image, renamed=_renamed(image))


def _control(tag: ConfigTag) -> Control:
    labels = tuple(Label(one["value"], one.get("alias", "")) for one in tag.labels if one.get("value"))
    value = tag.attributes.get("value") if tag.kind.endswith("labels") else None
    allows_none = tag.attributes.get("allowempty", "").strip().lower() == "true"
    return Control(tag.name, tag.tag, labels, TaskValue.of(value), allows_none, _is_marked(tag))


def _renamed(image: ImageTag) -> str | None:
    """The only label there is for masks, if the prompts' labels are not classes of masks."""
    if len(image.outputs) != 1 or any(one.task_labels for one in (*image.prompts, *image.holders)):
        return None
    names = {label.sent for holder in image.holders for label in holder.labels}
    known = {name for holder in image.holders for label in holder.labels for name in (label.value, label.alias)}
    separate = () if all(one.holds_labels for one in image.prompts) else image.groups
    prompted = {label for one in (*image.prompts, *separate) for label in one.labels}
    is_other = not any(name in known for label in prompted for name in (label.value, label.sent))
    return next(iter(names)) if len(names) == 1 and is_other else None


def _require_one_output(controls: Iterable[ConfigTag]) -> None:
    marked = [one for one in controls if _is_marked(one)]
    images = [name for one in marked for name in to_names(one)]
    labels = [(name, label.sent) for one in marked for name in to_names(one) for label in _control(one).labels]
    is_one = len(images) == len(set(images)) or (bool(labels) and len(labels) == len(set(labels)))
    if not is_one or any(one.kind.removesuffix("labels") not in OUTPUT_KINDS for one in marked):
        raise InvalidLabelConfig(
            f'{OUTPUT_ATTRIBUTE}="{OUTPUT_VALUE}" belongs to one brush, bitmask, polygon or rectangle control'
        )


def _require_prompts_and_outputs(images: Sequence[ImageTag], controls: Sequence[ConfigTag]) -> None:
    """Refuse a config in which no image has both.

    Raises:
        InvalidLabelConfig: The message names the line to add or to change.
    """
    if any(image.prompts and image.outputs for image in images):
        return
    if not images:
        raise InvalidLabelConfig('the labeling config has no image: add <Image name="image" value="$image"/>')
    first = next((image for image in images if image.outputs), None)
    if first is None:
        first = next((image for image in images if image.prompts), images[0])
        raise InvalidLabelConfig(first.lacks_output)
    pointers = (one for one in controls if one.kind.removesuffix("labels") in POINTERS)
    plain = next((one for one in pointers if first.name in to_names(one, first.name)), None)
    if plain is not None:
        raise InvalidLabelConfig(f'no control prompts for masks: write smart="true" in {plain}')
    raise InvalidLabelConfig(
        f'no control prompts for masks: add <KeyPointLabels name="keypoint" toName="{as_written(first.name)}" '
        'smart="true"> with the same labels'
    )
