"""Label Studio's tasks and context → one question for the model, in pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from m2n2_backend.errors import InvalidRequest
from m2n2_backend.labelstudio.contract.items import Drawn, drawn_prompts, to_prompts
from m2n2_backend.labelstudio.contract.label_config import LabelConfig, Target
from m2n2_backend.labelstudio.contract.models import PredictRequest, PredictTask
from m2n2_backend.labelstudio.contract.reading import objects_in
from m2n2_backend.labelstudio.contract.scribbles import DrawnStroke, require_short
from m2n2_backend.prompts import Prompts


@dataclass(frozen=True, slots=True)
class InteractiveRequest:
    """One object to be segmented in one image.

    Attributes:
        task_id: Label Studio's id of the task, None where it was not sent.
        project: Label Studio's id of the project, "" where it was not sent.
        image: The image's address as the task holds it.
        drawn: The prompts as they were sent, at least one. The cost of reading them is bounded, but it is not known
            yet whether the image has the size that they claim.
        targets: The controls that the mask is returned to, with the labels of their regions; mostly one.
        image_name: Name of the ``<Image>`` tag.
        item_index: Page of a multi-page task, None for others.
        width: Width of the natural image in pixels, as the browser saw it.
        height: Its height in pixels.
        image_rotation: Rotation of the view in degrees; coordinates are not rotated, so it is only echoed.
        region_id: The region's id, which is the same for every request about the same object.
        prompt_ids: Label Studio's ids of the prompts; empty where a prompt has no id.
    """

    task_id: int | str | None
    project: str
    image: str
    drawn: tuple[Drawn, ...]
    targets: tuple[Target, ...]
    image_name: str
    item_index: int | None
    width: int
    height: int
    image_rotation: float
    region_id: str
    prompt_ids: frozenset[str] = frozenset()

    @property
    def prompts(self) -> Prompts:
        """The prompts in pixels of the natural image; they are decoded now, so its size must be known to be right.

        Raises:
            InvalidPrompt: A stroke cannot be read, or no prompt is foreground.
        """
        prompts = to_prompts(self.drawn, self.width, self.height)
        prompts.validate(self.width, self.height)
        return prompts

    @property
    def stroke_pixels(self) -> int:
        """Pixels of all strokes, each of which spans the image."""
        return self.width * self.height * sum(one.is_stroke for one in self.drawn)

    @property
    def label(self) -> str | None:
        """The labels of all regions as one text, None where they have none."""
        found = (
            label
            for one in self.targets
            for part in (one.labels, *(held for _, held in one.separate))
            for label in part
        )
        return ", ".join(found) or None


def parse_request(request: PredictRequest, config: LabelConfig) -> InteractiveRequest | None:
    """Read an interactive request; None where it holds no prompt of an unfinished object.

    Prompts of objects that are already finished are left out (Label Studio goes on to send them where a mask was
    accepted on the canvas), as are items of other types and of other pages than the newest one's.

    Raises:
        InvalidRequest: The prompts do not match the config, the task or each other, or there is not exactly one task;
            the message names the path.
        InvalidPrompt: A prompt lies outside of the image, they are too many, or none is foreground. Strokes are not
            decoded here: see :attr:`InteractiveRequest.prompts`.
        InvalidLabelConfig: No control of the image knows the newest prompt's label.
    """
    if len(request.tasks) != 1:
        raise InvalidRequest(f"tasks must hold exactly one task where prompts are sent, not {len(request.tasks)}")
    (task,) = request.tasks
    drawn = drawn_prompts(request.items, config)
    if not drawn:
        return None
    region_ids = {one.path: _region_id(task.get("id"), one) for one in drawn}
    finished = _finished(task, set(region_ids.values()))
    drawn = [one for one in drawn if one.item.id is None or one.item.id not in finished]
    if not drawn:
        return None
    newest = drawn[-1]
    group = [one for one in drawn if one.page == newest.page and one.image.name == newest.image.name]
    for one in group:
        if one.size != newest.size:
            raise InvalidRequest(f"{one.path}.original_width/height differ from those of the newest prompt")
    width, height = newest.size
    _require_readable(group, width, height)
    ids = [one.item.id for one in group]
    return InteractiveRequest(
        task_id=task.get("id"),
        project=request.project or "",
        image=_address(task, newest),
        drawn=tuple(group),
        targets=newest.image.targets(newest.labels, task.get("data"), newest.groups),
        image_name=newest.image.name,
        item_index=newest.item.item_index if newest.image.tag.pages else None,
        width=width,
        height=height,
        image_rotation=newest.item.image_rotation,
        region_id=region_ids[group[0].path],
        prompt_ids=frozenset(id for id in ids if id is not None) if None not in ids else frozenset(),
    )


def _require_readable(group: Sequence[Drawn], width: int, height: int) -> None:
    """Refuse what can be refused before a stroke is decoded: the image may have quite another size.

    Raises:
        InvalidPrompt: See :func:`parse_request`.
    """
    require_short([one.item for one in group if isinstance(one.item, DrawnStroke)], width, height)
    others = [one for one in group if not one.is_stroke]
    prompts = to_prompts(others, width, height)
    prompts.require_few()
    if len(others) == len(group):
        prompts.validate(width, height)


def _finished(task: PredictTask, masks: set[str]) -> set[str]:
    """Ids of saved regions that cannot be prompts of the object that is being worked on.

    What was submitted is finished. Drafts are another matter: Label Studio saves them by itself a few seconds
    after a click, with the prompts of the unfinished object. There only what stands before an accepted mask of
    the prompts at hand is finished.

    Args:
        task: The task as it was sent. Only the ids of its regions are looked at, as regions may be large; anything
            that does not look like a region is passed over.
        masks: Region ids that the prompts at hand lead to.
    """
    found = {region for entry in _region_ids(task.get("annotations")) for region in entry}
    for entry in _region_ids(task.get("drafts")):
        accepted = [index for index, region in enumerate(entry) if region in masks]
        found.update(entry[: accepted[-1]] if accepted else ())
    return found


def _region_ids(entries: object) -> Iterator[list[str]]:
    """The ids in each of a task's drafts or annotations, in the order in which the regions were made."""
    for entry in objects_in(entries):
        yield [region["id"] for region in objects_in(entry.get("result")) if isinstance(region.get("id"), str)]


def _address(task: PredictTask, newest: Drawn) -> str:
    data = task.get("data")
    if data is None:
        raise InvalidRequest("tasks[0].data must be an object, not missing or null")
    tag = newest.image.tag
    if newest.page and not tag.pages:
        raise InvalidRequest(f"{newest.path}.item_index is {newest.page}, but {tag} has no valueList")
    return newest.image.address(data, newest.page)


def _region_id(task_id: int | str | None, first: Drawn) -> str:
    """Ten hexadecimal digits that stay the same while prompts are added to an object.

    Label Studio replaces a region by a new one of the same id, and the group always begins with the object's
    first prompt. Its labels count and not those of later prompts, as the editor groups prompts by their first label.
    """
    origin = first.item.id or [first.item.value.model_dump(exclude_none=True), first.item.from_name]
    # The name of the task is part of it: ids of prompts are only unique within one page of the browser.
    seed = json.dumps([str(task_id), first.image.name, first.labels, first.page, origin])
    return hashlib.sha256(seed.encode()).hexdigest()[:10]
