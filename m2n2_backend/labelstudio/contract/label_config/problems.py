"""Problems of a labeling config that keep prompts from being answered, and what confuses or slows annotators."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from m2n2_backend.errors import InvalidLabelConfig
from m2n2_backend.labelstudio.contract.label_config.controls import SILENT, Control
from m2n2_backend.labelstudio.contract.label_config.image_tag import ImageTag
from m2n2_backend.labelstudio.contract.label_config.tags import ConfigTag
from m2n2_backend.labelstudio.contract.label_config.task_value import FLAG, INDEX, TaskValue, as_written

_MOST_NAMED = 10


def problems_of(images: Sequence[ImageTag], tags: Sequence[ConfigTag]) -> Iterator[str]:
    """Why some prompts could not be answered; one sentence each, with the line to change."""
    names = {tag.name for tag in tags}
    for tag in tags:
        yield from _of_repeated(tag)
    for tag in tags:
        to_name = tag.attributes.get("toname", "")
        for name in to_name.split(",") if to_name else ():
            if name.strip() not in names:
                yield f'{tag} has toName="{as_written(name.strip())}", but the config has no tag of that name there'
    shared = Counter(str(control) for image in images for control in (*image.prompts, *image.groups))
    for control, number in shared.items():
        if number > 1:
            yield f"Label Studio (1.23.2) cannot use {control} on {number} images: each needs its own"
    for image in images:
        if image.prompts:
            yield from _of_image(image)


def warnings_of(images: Sequence[ImageTag], smart: Collection[str]) -> Iterator[str]:
    """What will confuse annotators although it works; one sentence each, with the cure.

    ``smart`` has the names of the controls that the editor makes a smart tool for.
    """
    for image in images:
        for control in image.outputs if image.prompts else ():
            if control.name in smart and control not in image.prompts:
                cause = "else the toolbar has a smart tool that never sends a request"
                yield f'write smart="false" in {control}: {cause}'
        for control in image.prompts:
            if control.shape in SILENT:
                yield (
                    f"Label Studio (1.23.2) sends nothing when {control} is used: predict-project reads "
                    "what was saved; for an answer at once see smart_tools.user.js in label_config"
                )
        if image.renamed is not None and (
            sent := sorted({one.sent for each in image.prompts for one in each.labels})
        ):
            shown = ", ".join(sent[:_MOST_NAMED])
            yield f"prompts labeled {shown} come back as {image.renamed}, the only label of {image.outputs[0]}"


def hints_of(images: Sequence[ImageTag]) -> Iterator[str]:
    """What spares annotators clicks although nothing is wrong; one sentence each."""
    for image in images:
        own = next((one for one in image.prompts if one.shape == "keypoint" and one.holds_labels), None)
        if own is not None and image.outputs:
            yield (
                f"the label of {own} has to be selected again before each click: with one <Labels> above the image "
                f"and <KeyPoint>, as in label_config/{_shipped(image.outputs[0])}.xml, it stays selected"
            )
        if {"keypoint", "rectangle"} <= {one.shape for one in image.prompts}:
            yield (
                f"a click inside a box of {image} selects the box and asks nobody, and Ctrl+click asks about the "
                "points alone: with label_config/careful_clicks.user.js in the browser, clicks correct a box's mask"
            )


def _shipped(output: Control) -> str:
    return output.shape if output.shape in ("bitmask", "polygon") else "brush"


def _of_image(image: ImageTag) -> Iterator[str]:
    if image.source is None:
        yield f'{image} must take its value from the task: value="$image"'
    if not image.outputs:
        yield image.lacks_output
        return
    empty = [one for one in image.holders if not (one.labels or one.task_labels or one.allows_none)]
    if empty:
        yield f'{empty[0]} has no label: add <Label value="Object"/>'
        return
    known = {label.sent for holder in image.holders for label in holder.labels}
    from_task = {holder.task_labels.text for holder in image.holders if holder.task_labels}
    for prompt in image.prompts:
        sources = (prompt,) if prompt.holds_labels else image.groups
        for source in sources:
            if source.task_labels and source.task_labels.text not in from_task:
                yield _other_labels(source, source.task_labels, image)
        sent = {label.sent for source in sources for label in source.labels}
        if sent - known and from_task:
            line = f'value="{min(from_task)}"'
            yield f"masks take their labels from the task ({line}), and {prompt} has others: write {line} in it too"
            continue
        asked: list[tuple[str, ...]] = [(label,) for label in sorted(sent - known)]
        if not sources or prompt.allows_none:
            asked.append(())
        for labels in asked[:_MOST_NAMED]:
            try:
                image.targets(labels, {}, groups=None if prompt.holds_labels else {})
            except InvalidLabelConfig as error:
                yield str(error) if labels else _without_label(prompt, image)


def _without_label(prompt: Control, image: ImageTag) -> str:
    holder = image.holders[0]
    if prompt.holds_labels:
        line = 'allowEmpty="true"'
        return f"{prompt} allows prompts without a label, and {holder} does not: write {line} in both or in neither"
    line = f'<Labels toName="{as_written(image.name)}">'
    return f"a prompt of {prompt} has no label, and {holder} has several: use <KeyPointLabels>, or add {line}"


def _other_labels(source: Control, value: TaskValue, image: ImageTag) -> str:
    line = f'value="{value.text}"'
    holder = image.holders[0] if image.holders else f"a <Labels> of {image}"
    return f"{source} takes its labels from the task ({line}): write {line} in {holder} too"


def _of_repeated(tag: ConfigTag) -> Iterator[str]:
    """Why a tag inside of a ``<Repeater>`` cannot be recognized by its name."""
    if tag.repeated is None:
        return
    names = [tag.name, *tag.attributes.get("toname", tag.name).split(",")]
    if tag.nested:
        yield f"{tag} stands in a <Repeater> inside of another one: use one <Repeater>"
    elif not re.fullmatch(r"\$[\w\[\].]+", tag.repeated, re.ASCII):
        yield f'the <Repeater> around {tag} must count a list of the task: on="$images"'
    elif any(name.count(INDEX) != 1 for name in names):
        yield f"{tag} stands in a <Repeater>: its name, and the name of its image, must hold {FLAG} once"
    elif any(re.search(rf"[0-9]{INDEX}|{INDEX}[0-9]", name) for name in names):
        yield f"{tag} has a digit beside {FLAG}: put another character between them"
