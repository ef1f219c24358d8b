"""Regions → objects: the polygons that were returned for one mask belong together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
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
    first_of = _firsts([region for region in regions if region.kind == "polygon"])
    groups: dict[Hashable, list[Region]] = {}
    for number, region in enumerate(regions):
        first = first_of.get(region.id) if region.kind == "polygon" else None
        groups.setdefault((first, region.control, region.label) if first else number, []).append(region)
    return [replace(group[0], parts=tuple(group)) if len(group) > 1 else group[0] for group in groups.values()]


def _firsts(parts: Iterable[Region]) -> dict[str, str]:
    """For the id of each part of several, the id of the object's first one, which may have been deleted."""
    ids = {part.id for part in parts}
    firsts = ids | {part.parent for part in parts if part.parent}
    pairs = ((piece_id(first, index), first) for first in firsts for index in range(1, MOST_PARTS))
    further = {piece: first for piece, first in pairs if piece in ids}
    return further | {first: first for first in further.values()}
