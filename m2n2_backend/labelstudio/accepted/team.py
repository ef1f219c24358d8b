"""What stored annotations tell of the work: how many prompts an object took, and which masks were edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from m2n2_backend.labelstudio.client import Json
from m2n2_backend.labelstudio.export.regions import Region
from m2n2_backend.labelstudio.export.shapes import area_of_region

SHARE = 1e-3
"""Change of a mask's area, as a share, from which on it counts as edited; the editor rounds corners."""

LEAST = 2.0
"""The same in pixels, for small masks."""


@dataclass
class Team:
    """Figures over the annotations that were read.

    The backend returns with each region how many prompts it took, its area and the number of its parts
    (``contract/response.py``), and Label Studio keeps this.

    Attributes:
        annotations: Number of annotations.
        objects: Number of objects in them.
        prompts: The number of prompts of each object that tells it.
        edited: Number of objects among these whose mask was changed after it was returned.
        left: Saved prompts, which remain where a mask was accepted on the canvas, or not at all.
        seconds: Label Studio's ``lead_time`` of each annotation, shared among its objects.
    """

    annotations: int = 0
    objects: int = 0
    prompts: list[int] = field(default_factory=list)
    edited: int = 0
    left: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, annotation: Json, regions: Sequence[Region], left: int) -> None:
        """Count one annotation with its whole objects and its saved prompts."""
        self.annotations += 1
        self.objects += len(regions)
        self.left += left
        lead_time = annotation.get("lead_time")
        if regions and isinstance(lead_time, int | float) and lead_time > 0:
            self.seconds += [lead_time / len(regions)] * len(regions)
        for region in regions:
            count = region.meta.get("prompts")
            if isinstance(count, int) and count > 0:
                self.prompts.append(count)
                self.edited += is_edited(region)

    def figures(self) -> dict[str, Any]:
        """The figures as JSON; None where nothing tells them."""
        known = len(self.prompts)
        return {
            "annotations": self.annotations,
            "objects": self.objects,
            "objects_that_tell": known,
            "clicks_per_object": fmean(self.prompts) if known else None,
            "share_edited": self.edited / known if known else None,
            "seconds_per_object": median(self.seconds) if self.seconds else None,
            "prompts_left_in_annotations": self.left,
        }

    def sentences(self) -> Iterator[str]:
        """The figures in words, and what cannot be told."""
        known = len(self.prompts)
        yield f"{self.annotations} annotations hold {self.objects} accepted objects."
        if known:
            yield (
                f"{known} of them tell how they were made: {fmean(self.prompts):.1f} clicks or boxes per object, and "
                f"{self.edited / known:.0%} were edited afterwards."
            )
        if self.objects > known:
            yield (
                f"{self.objects - known} objects do not tell it: they were drawn by hand, or returned by an earlier "
                "version."
            )
        if self.seconds:
            yield f"The median time was {median(self.seconds):.0f} s per object, pauses included."
        if self.left:
            yield f"{self.left} prompts were saved beside the masks."
        yield (
            "Annotations do not tell of masks that were rejected, nor of edits that change less than a thousandth of "
            "the area."
        )


def is_edited(region: Region) -> bool:
    """Whether a region, whose ``meta`` came from the backend, was changed or lost one of its parts."""
    parts = region.parts or (region,)
    if any(part.origin == "prediction-changed" for part in parts) or len(parts) != region.meta.get("parts", 1):
        return True
    return any(_differs(part) for part in parts)


def _differs(part: Region) -> bool:
    area = part.meta.get("area")
    if not isinstance(area, int | float):
        return False
    try:
        found = area_of_region(part)
    except (KeyError, TypeError, ValueError, IndexError):
        return False
    return abs(found - area) > max(LEAST, SHARE * area)
