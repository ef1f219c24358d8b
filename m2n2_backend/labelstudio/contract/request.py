"""Label Studio's tasks and context → one question for the model, in pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2n2_backend.errors import InvalidRequest
from m2n2_backend.labelstudio.contract.fields import as_count, as_list, as_object, as_text
from m2n2_backend.labelstudio.contract.items import Item, drawn_items, to_prompts
from m2n2_backend.labelstudio.contract.label_config import LabelConfig, OutputControl
from m2n2_backend.prompts import Prompts

MAX_ITEMS = 1000
"""Most prompts of one object; Label Studio sends the whole group with every click."""


@dataclass(frozen=True, slots=True)
class InteractiveRequest:
    """One object to be segmented in one image.

    Attributes:
        task_id: Label Studio's id of the task, None where it was not sent.
        project: Label Studio's id of the project, "" where it was not sent.
        image: Address of the image as the task holds it.
        prompts: In pixels of the natural image.
        label: The output control's label, None where that control has none.
        output: The control the mask is returned as.
        image_name: Name of the ``<Image>`` control.
        item_index: Page of a multi-page task, None for others.
        width: Width of the natural image in pixels, as the browser saw it.
        height: Its height.
        image_rotation: Rotation of the view in degrees; coordinates are not rotated, so it is only echoed.
        region_id: The same for every request about the same object.
        prompt_ids: Label Studio's ids of the prompts; empty where one has none.
    """

    task_id: int | str | None
    project: str
    image: str
    prompts: Prompts
    label: str | None
    output: OutputControl
    image_name: str
    item_index: int | None
    width: int
    height: int
    image_rotation: float
    region_id: str
    prompt_ids: frozenset[str] = frozenset()


def context_items(context: object) -> Sequence[Any]:
    """The prompts in a request's context; empty where Label Studio asks without any (batch, opening a task).

    Raises:
        InvalidRequest: ``context`` or ``context.result`` has the wrong type, or there are too many prompts.
    """
    if context is None:
        return ()
    result = as_object(context, "params.context").get("result")
    if result is None:
        return ()
    items = as_list(result, "params.context.result")
    if len(items) > MAX_ITEMS:
        raise InvalidRequest(f"params.context.result has {len(items)} prompts, the limit is {MAX_ITEMS}")
    return items


def parse_request(
    tasks: Sequence[Any], items: Sequence[Any], config: LabelConfig, *, project: str = ""
) -> InteractiveRequest | None:
    """Read an interactive request.

    Prompts of objects that are already finished are left out (Label Studio goes on to send them where a mask was
    accepted on the canvas), as are items of other types and of other pages than the newest one's.

    Args:
        tasks: The request's tasks; exactly one.
        items: What :func:`context_items` found.
        config: The project's labeling config.
        project: Label Studio's id of the project.

    Returns:
        The question, or None where no prompt is left.

    Raises:
        InvalidRequest: A field is missing or has the wrong type; the message names its path.
        InvalidPrompt: A prompt lies outside of the image, or none is foreground.
        InvalidLabelConfig: The output control has no label for the prompts.
    """
    if len(tasks) != 1:
        raise InvalidRequest(f"tasks must hold exactly one task where prompts are sent, not {len(tasks)}")
    task = as_object(tasks[0], "tasks[0]")
    drawn = drawn_items(items, config)
    if not drawn:
        return None
    task_id = _task_id(task)
    label = config.output_label(drawn[-1].label)
    region_ids = {item.path: _region_id(task_id, config.output.name, label, item) for item in drawn}
    finished = _finished(task, set(region_ids.values()))
    drawn = [item for item in drawn if item.id is None or item.id not in finished]
    if not drawn:
        return None
    newest = drawn[-1]
    group = [item for item in drawn if (item.item_index or 0) == (newest.item_index or 0)]
    width, height = newest.size
    for item in group:
        if item.size != newest.size:
            raise InvalidRequest(f"{item.path}.original_width/height differ from those of the newest prompt")
    prompts = to_prompts(group, width, height)
    prompts.validate(width, height)
    ids = [item.id for item in group]
    return InteractiveRequest(
        task_id=task_id,
        project=project,
        image=_image(task, config, newest),
        prompts=prompts,
        label=label,
        output=config.output,
        image_name=config.image_name,
        item_index=newest.item_index if config.pages else None,
        width=width,
        height=height,
        image_rotation=newest.rotation,
        region_id=region_ids[group[0].path],
        prompt_ids=frozenset(id for id in ids if id is not None) if None not in ids else frozenset(),
    )


def _finished(task: Mapping[str, Any], masks: set[str]) -> set[str]:
    """Ids of saved regions that cannot be prompts of the object that is being worked on.

    What was submitted is finished. Drafts are another matter: Label Studio saves them by itself a few seconds
    after a click, with the prompts of the unfinished object. There only what stands before an accepted mask of
    the prompts at hand is finished.

    Args:
        task: As it was sent. Its regions may be large and are not looked at; whatever does not look like a region
            is passed over.
        masks: Region ids that the prompts at hand lead to.
    """
    found = {region for entry in _region_ids(task, "annotations") for region in entry}
    for entry in _region_ids(task, "drafts"):
        accepted = [index for index, region in enumerate(entry) if region in masks]
        found.update(entry[: accepted[-1]] if accepted else ())
    return found


def _region_ids(task: Mapping[str, Any], key: str) -> Iterator[list[str]]:
    """The ids in each of the task's drafts or annotations, in the order in which the regions were made."""
    entries = task.get(key)
    for entry in entries if isinstance(entries, list) else ():
        regions = entry.get("result") if isinstance(entry, dict) else None
        yield [
            region["id"]
            for region in (regions if isinstance(regions, list) else ())
            if isinstance(region, dict) and isinstance(region.get("id"), str)
        ]


def _image(task: Mapping[str, Any], config: LabelConfig, newest: Item) -> str:
    path = f"tasks[0].data.{config.image_key}"
    value = as_object(task.get("data"), "tasks[0].data").get(config.image_key)
    page = newest.item_index or 0
    if not config.pages:
        if page:
            raise InvalidRequest(f"{newest.path}.item_index is {page}, but the config's image has no valueList")
        return as_text(value, path)
    pages = as_list(value, path)
    if page >= len(pages):
        raise InvalidRequest(f"{newest.path}.item_index is {page}, but {path} has {len(pages)} pages")
    return as_text(pages[page], f"{path}[{page}]")


def _task_id(task: Mapping[str, Any]) -> int | str | None:
    value = task.get("id")
    if value is None or isinstance(value, str):
        return value
    return as_count(value, "tasks[0].id", least=0, most=2**63)


def _region_id(task_id: int | str | None, from_name: str, label: str | None, first: Item) -> str:
    """Ten hexadecimal digits that stay the same while prompts are added to an object.

    Label Studio replaces a region by a new one of the same id, and the group always begins with the object's
    first prompt.
    """
    origin = first.id or [first.value.get("x"), first.value.get("y")]
    # The name of the task is part of it: ids of prompts are only unique within one page of the browser.
    seed = json.dumps([str(task_id), from_name, label, first.item_index or 0, origin])
    return hashlib.sha256(seed.encode()).hexdigest()[:10]
