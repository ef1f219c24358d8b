"""The objects that a project's annotators accepted, with their masks and images, as files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from m2n2_backend.errors import ImageUnavailable, M2N2Error
from m2n2_backend.images import natural_size
from m2n2_backend.labelstudio.accepted.team import Team
from m2n2_backend.labelstudio.client import Json, LabelStudioClient
from m2n2_backend.labelstudio.export.controls import read_controls
from m2n2_backend.labelstudio.export.pieces import whole_objects
from m2n2_backend.labelstudio.export.regions import Region, ranked_annotations, read_regions, without_prompts
from m2n2_backend.labelstudio.export.shapes import Empty, mask_of
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader
from m2n2_backend.labelstudio.outcome import Outcome
from m2n2_backend.settings import Settings

SECONDS = 120.0
"""Limit for one image: nobody waits at a screen."""


@dataclass(frozen=True)
class AcceptedObject:
    """One object.

    Attributes:
        name: The name that people have for it, such as "task 7, Cat 2"; no two objects share one.
        image: File of the photograph, the same for all objects in it.
        mask: File of the mask: PNG, 255 object, 0 background.
    """

    name: str
    image: Path
    mask: Path


class AcceptedMasks:
    """Reads the newest annotation of each task, or the one that is marked as ground truth.

    Attributes:
        title: The project's title.
        size: Number of its tasks.
        objects: The objects that were read so far.
        team: What the annotations that were read tell of the work.
    """

    def __init__(self, settings: Settings, project: int, folder: Path, limit: int | None = None) -> None:
        """Ask Label Studio for the project.

        Args:
            folder: Folder for the files, which exists.
            limit: Number of objects to read, from the first task on; None for all.

        Raises:
            SettingsError: Address or token is not set.
            LabelStudioUnavailable: Label Studio does not answer, or refuses this token or project.
            InvalidLabelConfig: The project's labeling config is not XML.
        """
        self._studio = LabelStudioClient.of(settings)
        self._media = MediaReader(settings)
        self._max_pixels = settings.max_image_pixels
        self._project = project
        self._folder = folder
        self._limit = limit
        found = self._studio.project(project)
        self.title = str(found.get("title") or "")
        self.size = int(found.get("task_number") or 0)
        self._controls = read_controls(str(found.get("label_config") or ""))
        self.objects: list[AcceptedObject] = []
        self.team = Team()

    def read(self) -> Iterator[Outcome]:
        """Read the tasks, and write masks and images.

        Yields:
            ``read``; ``no annotations`` also where an annotation has no mask; ``failed`` where an image or a region
            cannot be read, with the reason: the other objects of the task are there.

        Raises:
            LabelStudioUnavailable: The list of tasks cannot be read.
        """
        for task in self._studio.tasks(self._project, whole=True):
            if self._limit is not None and len(self.objects) >= self._limit:
                return
            name = f"task {task['id']}"
            if (annotation := next(iter(ranked_annotations(task)), None)) is None:
                yield Outcome(name, "no annotations")
                continue
            before = len(self.objects)
            faults = self._of_annotation(task, annotation)
            if faults:
                yield Outcome(name, "failed", "; ".join(faults))
            else:
                yield Outcome(name, "read" if len(self.objects) > before else "no annotations")

    def _of_annotation(self, task: Json, annotation: Json) -> list[str]:
        """Add the objects of an annotation; returns why some could not be read."""
        sorted_out = without_prompts(annotation.get("result"), self._controls.prompts)
        read = read_regions(sorted_out.kept)
        places: dict[tuple[str, int], list[Region]] = {}
        for region in read.regions:
            if region.kind != "keypoint":
                places.setdefault((region.image, region.page), []).append(region)
        faults = list(read.unreadable)
        addresses = {(name, page): url for name, page, url in self._controls.shown(task.get("data"))}
        whole = {place: whole_objects(_once(regions)) for place, regions in places.items()}
        found = [region for regions in whole.values() for region in regions]
        self.team.add(annotation, found, sorted_out.prompts.total())
        for place, regions in whole.items():
            try:
                image = self._image(task, addresses.get(place, ""), regions[0])
                self._add(task, image, regions, faults)
            except M2N2Error as error:
                faults.append(str(error))
        return faults

    def _image(self, task: Json, address: str, region: Region) -> Path:
        if not address:
            raise ImageUnavailable(f"the task's data hold no image for <{region.image}>")
        ref = ImageRef(address, task["id"], project=str(self._project))
        data = self._media.fetch(ref, deadline=time.monotonic() + SECONDS).data
        assert data is not None, "a reader brings the file"
        size = natural_size(data, max_pixels=self._max_pixels)
        if size != (region.width, region.height):
            raise ImageUnavailable(
                f"the image has {size[0]}x{size[1]} pixels, its regions were drawn on {region.width}x{region.height}"
            )
        path = self._folder / f"image-{len(self.objects)}"
        path.write_bytes(data)
        return path

    def _add(self, task: Json, image: Path, regions: Sequence[Region], faults: list[str]) -> None:
        """Add the regions of one image as objects; a mask that was stored twice is one object."""
        seen: set[bytes] = set()
        taken = {one.name for one in self.objects}
        for region in regions:
            try:
                mask = mask_of(region)
            except Empty:
                continue
            except (KeyError, TypeError, ValueError, IndexError) as error:
                faults.append(f"region {region.id} ({region.kind}): {error}")
                continue
            code = np.packbits(mask).tobytes()
            if code in seen or (self._limit is not None and len(self.objects) >= self._limit):
                continue
            seen.add(code)
            names = (f"task {task['id']}, {region.label} {number}" for number in range(1, len(taken) + 2))
            name = next(name for name in names if name not in taken)
            taken.add(name)
            path = self._folder / f"mask-{len(self.objects)}.png"
            cv2.imwrite(str(path), mask.astype(np.uint8) * 255)
            self.objects.append(AcceptedObject(name, image, path))


def _once(regions: Sequence[Region]) -> list[Region]:
    """Each region once: one with several labels stands there for each of them, with the same value."""
    return list({id(region.value): region for region in reversed(regions)}.values())[::-1]
