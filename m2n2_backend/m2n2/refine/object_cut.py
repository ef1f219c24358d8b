"""After a foreground click, color counts in the whole object (beyond the paper).

The attention shows roughly what belongs to the click, and is in doubt where its distance is near 1. There, on a
small copy of the photograph, each pixel takes the side that attention and color together favor, with as short an
edge as they allow: a minimum cut as in GrabCut (Rother et al. 2004). Where the cut agrees with the attention, the
attention's own edge stays, which is finer; the band settles it afterwards.

It is not done after background clicks: there it destroyed more masks, and left more objects short of 90 %. Variants
are in the evaluation's README.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.places import Placed, index_of
from m2n2_backend.m2n2.refine.color_mixture import evidence
from m2n2_backend.m2n2.refine.min_cut import min_cut
from m2n2_backend.m2n2.refine.pixel_graph import in_units, pixel_graph
from m2n2_backend.rasters import cell_of, enlarged, reduced

SIDE = 160
"""Longest side of the small copy, in pixels: a few to a cell of the attention."""

ATTENTION = 10.0
"""Nats for the foreground for each factor of e by which the distance is below 1; for the background, above 1."""

FAR = 2.0
"""The distance counts within [1/FAR, FAR], so that attention contributes 7 nats at most, and color 5."""

COLOR = 0.5
"""Share of the color's evidence: it is fitted to the very mask that it judges."""

SMOOTHNESS = 10.0
"""Nats that an edge between pixels of equal color costs."""

_CLICKED = 1000.0  # nats: beyond what neighbors could ever outweigh


@dataclass(frozen=True)
class CoarseGraph:
    """The part of the cut that depends on the photograph alone.

    Attributes:
        rgb: uint8 [h, w, 3].
        near: Neighbors of the h·w pixels, int32 [h·w, 8], as ``min_cut`` takes them.
        capacity: What an edge to each neighbor costs, int32 [h·w, 8].
    """

    rgb: NDArray[np.uint8]
    near: NDArray[np.int32]
    capacity: NDArray[np.int32]

    @staticmethod
    def of(rgb: NDArray[np.uint8]) -> CoarseGraph:
        """Build the graph of a photograph at working size, uint8 [H, W, 3]."""
        small = reduced(rgb, SIDE).copy()  # a small photograph itself may be read-only
        everywhere = np.ones(small.shape[:2], np.bool_)
        _, near, capacity = pixel_graph(everywhere, everywhere, small, np.zeros(everywhere.size), SMOOTHNESS)
        return CoarseGraph(small, near, capacity)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: 1.7 MB for a square photograph."""
        return self.rgb.nbytes + self.near.nbytes + self.capacity.nbytes


def cut_object(copy: CoarseGraph, distance: NDArray[np.float32], prompts: Sequence[Placed]) -> NDArray[np.bool_]:
    """The mask of least energy.

    Args:
        distance: Foreground where it is ≤ 1, float32 [H, W] at working size, ≥ 0.
        prompts: Clicks and scribbles: their pixels keep their labels, that of the later one if two disagree.

    Returns:
        A new bool [H, W]; ``distance`` ≤ 1 if a side is too small to learn its colors from.
    """
    (height, width), (rows, cols) = distance.shape, copy.rgb.shape[:2]
    rough = distance <= 1.0
    sure = -ATTENTION * np.log(np.clip(distance, 1.0 / FAR, FAR))
    nats = np.asarray(cv2.resize(sure, (cols, rows), interpolation=cv2.INTER_AREA))
    before = nats >= 0.0
    of_color = evidence(copy.rgb, before, ~before, np.ones_like(before))
    if of_color is None:
        return rough
    nats += COLOR * of_color.reshape(rows, cols)
    for prompt in prompts:
        row, col = index_of(prompt.place)
        nats[cell_of(row, height, rows), cell_of(col, width, cols)] = _CLICKED if prompt.positive else -_CLICKED
    after = min_cut(in_units(nats.ravel()), copy.near, copy.capacity).reshape(rows, cols)
    return (rough | enlarged(after & ~before, (height, width))) & ~enlarged(before & ~after, (height, width))
