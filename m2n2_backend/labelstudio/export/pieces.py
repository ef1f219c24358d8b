"""Regions → objects: the polygons that were returned for one mask belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from m2n2_backend.labelstudio.contract.polygons import MOST_PARTS
from m2n2_backend.labelstudio.contract.response import piece_id
from m2n2_backend.labelstudio.export.regions import Region


def whole_objects(regions: Sequence[Region]) -> list[Region]:
    """The same regions, but the parts of one mask are a single region, in the place of its first part.

    A mask of several parts is returned as several polygons, whose ids follow from the first one's
    (:func:`~m2n2_backend.labelstudio.contract.response.piece_id`). Label Studio keeps ids and parents, so that this
    also tells which polygons belong together after some were edited or deleted. A part that was given another label
    is an object of its own; polygons that a user drew never have such ids.

    Args:
        regions: Regions of one image in one annotation.
    """
    parts = [region for region in regions if region.kind == "polygon"]
    first_of = _firsts(parts)
    groups: dict[tuple[str, str, str], list[Region]] = {}
    for part in parts:
        groups.setdefault(_key(part, first_of), []).append(part)
    found: list[Region] = []
    for region in regions:
        group = groups.pop(_key(region, first_of), None) if region.kind == "polygon" else [region]
        if group:
            found.append(replace(group[0], parts=tuple(group)) if len(group) > 1 else group[0])
    return found


def _key(region: Region, first_of: dict[str, str]) -> tuple[str, str, str]:
    return first_of.get(region.id, region.id), region.control, region.label


def _firsts(parts: Iterable[Region]) -> dict[str, str]:
    """For the id of each further part, the id of the object's first one, which may have been deleted."""
    ids = {part.id for part in parts}
    firsts = ids | {part.parent for part in parts if part.parent}
    return {
        piece: first for first in firsts for index in range(1, MOST_PARTS) if (piece := piece_id(first, index)) in ids
    }
