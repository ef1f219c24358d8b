"""Tasks → the items that the SDK's converter is given, one for each image of each annotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2n2_backend.labelstudio.export.controls import Controls, Emitted
from m2n2_backend.labelstudio.export.names import Image, Names
from m2n2_backend.labelstudio.export.pieces import whole_objects
from m2n2_backend.labelstudio.export.regions import NO_LABEL, Json, Region, ranked_annotations, read_regions
from m2n2_backend.labelstudio.export.shapes import Empty, Format, emission
from m2n2_backend.labelstudio.export.written import CocoImage, Counts, coco_mask, coco_rings

Place = tuple[str, int]
"""Name of an image in the config, and the page."""


class Items:
    """Makes the items, and keeps what the converter is not given.

    Attributes:
        given: The number of objects in all items.
        answers: The number of choices, texts and the like, which only JSON holds.
        emitted: Names of the controls, each with the shape that its regions are given as.
        classes: The labels of all regions.
        images: The image of each item.
        coco_images: The same for COCO.
        masks: The mask of each shape, for COCO.
    """

    def __init__(self, controls: Controls, format: Format, folder: Path) -> None:
        """Set up without a task. Tasks pass through unchanged for ``json``; ``folder`` is for temporary files."""
        self._controls = controls
        self._format = format
        self._names = Names()
        self._labels: dict[str, str] = {}
        self._stand_ins = folder / "images"
        self._stand_ins.mkdir()
        self._empty_masks = 0
        self._several = 0
        self.given = Counts()
        self.answers = 0
        self.emitted: dict[str, Emitted] = {}
        self.classes: Counter[str] = Counter()
        self.images: list[Image] = []
        self.coco_images: list[CocoImage] = []
        self.masks: list[dict[str, Any] | None] = []

    @property
    def empty(self) -> bool:
        """Whether there is not one object."""
        return self.given == Counts()

    def of_task(self, task: Json) -> tuple[list[Json], list[str]]:
        """The items of a task, which has an annotation and no prompts; and why some of its regions are left out."""
        if self._format == "json":
            return [task], []
        annotations = ranked_annotations(task)
        self._several += len(annotations) > 1
        items: list[Json] = []
        faults: list[str] = []
        for rank, annotation in enumerate(annotations):
            read = read_regions(annotation["result"])
            self.answers += read.answers
            faults += read.unreadable
            addresses = {(name, page): url for name, page, url in self._controls.shown(task.get("data"))}
            places: dict[Place, list[Region]] = {place: [] for place in addresses}
            for region in read.regions:
                places.setdefault((region.image, region.page), []).append(region)
            for place, regions in places.items():
                results = list(self._results(whole_objects(regions), faults))
                size = (regions[0].width, regions[0].height) if regions else None
                image = self._image(task, annotation, place, addresses.get(place, ""), rank)
                items.append(self._item(image, annotation, results, place, len(places) > 1))
                self.images.append(image)
                self.coco_images.append(CocoImage(image.name, size))
        return items, faults

    def notes(self, sizeless: int) -> Iterator[str]:
        """Remarks on the files, a sentence each; ``sizeless`` images could not be held by COCO."""
        if self.classes[NO_LABEL]:
            yield f'{self.classes[NO_LABEL]} regions have no label and are of class "{NO_LABEL}"'
        if self._empty_masks:
            yield f"{self._empty_masks} regions left out that cover no pixel"
        if self.answers:
            yield f"{self.answers} answers that are not drawn (choices, texts, relations) left out: json holds them"
        if sizeless:
            yield f"{sizeless} images without a region left out, because their size is not known"
        if self._several:
            yield (
                f"{self._several} tasks have several annotations, and each is exported by itself: the ground truth "
                "or the newest under the image's name, the others under names that end in their number"
            )

    def _results(self, regions: list[Region], faults: list[str]) -> Iterator[Json]:
        boxes = self._controls.only_rectangles or bool(self._controls.key_points.known)
        found: dict[str, list[tuple[Json, dict[str, Any] | None]]] = {}
        for region in regions:
            try:
                emitted = emission(region, self._format, boxes=boxes)
            except Empty:
                self._empty_masks += 1
                continue
            except (KeyError, TypeError, ValueError, IndexError) as error:
                faults.append(f"region {region.id} ({region.kind}): {error}")
                continue
            self.emitted.setdefault(region.control, emitted.kind)
            self.classes[region.label] += 1
            label = self._label(region.label)
            result = {
                "id": region.id,
                "parentID": region.parent,
                "from_name": region.control,
                "to_name": "image",
                "type": f"{emitted.kind}labels",
                "original_width": region.width,
                "original_height": region.height,
                "value": {**_bare(emitted.value), f"{emitted.kind}labels": [label]},
            }
            code = coco_rings(emitted.rings) if emitted.rings else None
            code = code if emitted.mask is None else coco_mask(emitted.mask)
            found.setdefault(region.control, []).append((result, code))
        # The converter takes one control after the other, in the order in which they first come.
        for result, code in (pair for pairs in found.values() for pair in pairs):
            is_point = result["type"] == "keypointlabels"
            self.given = Counts(self.given.shapes + (not is_point), self.given.points + is_point)
            self.masks += [] if is_point else [code]
            yield result

    def _image(self, task: Json, annotation: Json, place: Place, address: str, rank: int) -> Image:
        # In COCO's list an image may stand several times; a file of labels is there once.
        seen = (task["id"], *place)
        key = (address or seen) if self._format == "coco" else (*seen, annotation["id"])
        known = self._names.of(key, address, f"annotation-{annotation['id']}" if rank else f"task-{task['id']}")
        shown = "" if address[:5].lower() == "data:" else address
        return Image(known, int(task["id"]), int(annotation["id"]), place[1], shown)

    def _item(self, image: Image, annotation: Json, results: list[Json], place: Place, several: bool) -> Json:
        # The converter searches and downloads no file that exists.
        stand_in = self._stand_ins / image.name
        stand_in.touch()
        suffix = f"-{place[0]}-{place[1]}" if several else ""  # the converter names PNG files after the task
        kept = {key: annotation.get(key) for key in ("id", "completed_by", "created_at")}
        return {
            "id": f"{image.task}{suffix}",
            "data": {"image": str(stand_in)},
            "annotations": [{**kept, "result": results}],
        }

    def _label(self, label: str) -> str:
        """The label; for PNG, a unique one that can be part of a file's name."""
        if self._format != "png":
            return label
        if label not in self._labels:
            safe = label.replace("/", "-").replace("\\", "-")[:80]
            while safe in self._labels.values():
                safe += "~"
            self._labels[label] = safe
        return self._labels[label]


def _bare(value: Json) -> Json:
    """A value without its labels: each item gets a single one."""
    return {key: part for key, part in value.items() if not key.endswith("labels")}
