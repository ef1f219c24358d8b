"""The clicks as a sequence: each changes what it was about, and color settles the edge (beyond the paper).

A mask depends on the order of the prompts:

- Boxes come first, as one prompt, wherever they stand in the request and however many; clicks after them refine.
- Background clicks made before there was any foreground are answered together with the first foreground click.
- Each further click is a step of its own, also if several new ones arrive in one request: the answer is the one they
  would have got in that order.
- A foreground click only adds, a background click only removes, except where color decides at the edge.
- A click that agrees with the mask changes nothing; its pixel is fixed from then on.
- A point that was moved or deleted makes another sequence: masks are kept by the prompts so far, so that the steps
  before it are found again and only those from there on are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.threshold import Profile
from m2n2_backend.m2n2.places import Place, Placed, Stroke, index_of
from m2n2_backend.m2n2.postprocess import without_specks
from m2n2_backend.m2n2.refine.band import BOX_WIDTH, PreviousEdge, settle_edge, with_fixed
from m2n2_backend.m2n2.refine.click_radius import area_about, click_radius, disc, edit, sure_radius
from m2n2_backend.m2n2.refine.confidence import Calibration, first_confidence, next_confidence, next_trust
from m2n2_backend.m2n2.refine.limits import ClickLimits, connected_with, limits_of
from m2n2_backend.rasters import PackedMask

_STEP_BYTES = 1024  # of the objects of a refinement, without their arrays
_CLICK_BYTES = 320  # of the pinned pixels and the threshold of one click


@dataclass(frozen=True)
class PinnedPixels:
    """Pixels with a label that nothing else changes: those around one click, or of a scribble."""

    point: Place
    radius: float
    positive: bool


@dataclass(frozen=True)
class Bound:
    """The limit of what a click may change.

    Attributes:
        radius: Radius of the click, in pixels; 0 if it agrees with the mask.
        most: Number of pixels that may change.
        changed: Pixels that the answer to all clicks would change in the click's direction, or that its part which is
            connected with the click would (``limits``). Beyond ``most`` the click edits the mask instead.
    """

    radius: float
    most: float
    changed: int

    @property
    def edits(self) -> bool:
        """Whether the mask is edited instead of answered anew."""
        return self.changed > self.most


@dataclass(frozen=True)
class Refinement:
    """The result of some prompts, and all that the next one needs of it.

    Attributes:
        rough: The mask before color.
        settled: The mask that the user sees.
        discs: The pinned pixels of all clicks; where two overlap, the later one wins except at the other's own pixel.
        thresholds: λ of each click by the paper's rule for all of them, in the map's unit.
        score: Confidence in the mask, in [0, 1], see :mod:`m2n2_backend.m2n2.refine.confidence`.
        trust: How far color and the last click confirm the mask, in [0, 1]; it limits what the next click may change.
        bound: The limit of the last click; None for the first prompts.
    """

    rough: PackedMask
    settled: PackedMask
    discs: tuple[PinnedPixels, ...]
    thresholds: tuple[float, ...]
    score: float
    trust: float
    bound: Bound | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of both masks and of all clicks; scribbles that several steps share count in each of them."""
        scribbles = sum(len(disc.point.indices) for disc in self.discs if isinstance(disc.point, Stroke))
        clicks = _CLICK_BYTES * max(len(self.discs), len(self.thresholds)) + scribbles
        return self.rough.packed.nbytes + self.settled.packed.nbytes + clicks + _STEP_BYTES


@dataclass(frozen=True)
class Edge:
    """Settles a mask's edge and removes the specks that this leaves.

    Attributes:
        rgb: The photograph at working size, uint8 [H, W, 3].
        cell: Side of an attention cell in pixels.
        width: Width of the band on either side of the edge, in cells; 0 leaves the edge as it is.
        specks: Share of the image below which islands and holes are removed; those with a pinned pixel stay.
    """

    rgb: NDArray[np.uint8]
    cell: float
    width: float
    specks: float

    def settle(
        self, rough: NDArray[np.bool_], fixed: NDArray[np.int8], earlier: PreviousEdge | None = None
    ) -> NDArray[np.bool_]:
        """See :func:`m2n2_backend.m2n2.refine.band.settle_edge` for the arguments."""
        if self.width > 0:
            rough = settle_edge(self.rgb, rough, fixed, cell=self.cell, width=self.width, earlier=earlier)
        return without_specks(rough, self.specks, fixed != 0)


@dataclass(frozen=True)
class NewClick:
    """A click or scribble with M' (uint16 [H, W]), its profile, and M' at the clicks of the other label."""

    prompt: Placed
    levels: NDArray[np.uint16]
    profile: Profile
    other: Sequence[int]


def first_step(
    answer: NDArray[np.bool_],
    prompts: Sequence[Placed],
    edge: Edge,
    inside: NDArray[np.bool_] | None,
    thresholds: tuple[float, ...],
    ambiguity: float | None,
    calibration: Calibration,
) -> Refinement:
    """The answer to the first prompts, with its edge settled.

    Args:
        answer: The paper's mask or its cut (``object_cut``), bool [H, W].
        inside: Pixels of the boxes, bool [H, W]; None without boxes. Nothing else becomes foreground.
        ambiguity: That of the last click's threshold; None for boxes alone.
    """
    discs = tuple(PinnedPixels(each.place, 0.0, each.positive) for each in prompts)
    fixed = _fixed(answer.shape, discs)
    answer = with_fixed(answer, fixed)
    if inside is not None:
        fixed[~inside & (fixed == 0) & ~answer] = -1
        edge = replace(edge, width=BOX_WIDTH * edge.width)
    settled = edge.settle(answer, fixed)
    if not settled.any():
        settled = answer  # color may not remove the last pixels of an object
    score = first_confidence(answer, settled, ambiguity, calibration)
    return Refinement(PackedMask.of(answer), PackedMask.of(settled), discs, thresholds, score, score)


def next_step(
    previous: Refinement,
    answer: NDArray[np.bool_],
    click: NewClick,
    edge: Edge,
    kappa: float,
    thresholds: tuple[float, ...],
    calibration: Calibration,
) -> Refinement:
    """One more click: as much of the answer to all clicks as the limits of the click allow, or else an edit.

    Args:
        answer: The paper's mask for all clicks, or its cut (``object_cut``), bool [H, W].
        kappa: Most pixels that may change, in circles of the click's radius.
    """
    before, seen = previous.rough.unpacked(), previous.settled.unpacked()
    place, positive = click.prompt.place, click.prompt.positive
    radius = click_radius(seen, place, positive)
    if radius > 0.0:
        radius = min(radius, _apart(place, previous.discs, positive))
    # Beyond a cell the attention is a better guide than the circle to what belongs to the click.
    new = PinnedPixels(place, sure_radius(place, min(radius, edge.cell)), positive)
    discs = (*previous.discs, new)
    # A click on something missing is not meant to remove anything elsewhere, nor the other way round.
    change = answer & ~before if positive else before & ~answer
    if radius == 0.0:
        bound = Bound(0.0, 0.0, int(np.count_nonzero(change)))
        before[index_of(place)] = positive  # where color alone gave the label, no later click takes it
        # Nothing was learned about the rest of the mask, so the score is the one that it had.
        packed = PackedMask.of(before)
        return replace(previous, rough=packed, discs=discs, thresholds=thresholds, bound=bound)
    circle, area = area_about(seen, place, positive, max(radius, edge.cell / 2)), int(np.count_nonzero(seen))
    limits = limits_of(
        circle, area, positive=positive, earlier=len(previous.discs), trust=previous.trust, kappa=kappa
    )
    rough, bound = _changed(before, change, click, radius, limits)
    fixed = _fixed(rough.shape, discs)
    rough = with_fixed(rough, fixed)
    # Where the attention cannot see the error at all, color decides in the whole circle.
    around = np.zeros(rough.shape, np.bool_)
    around[disc(previous.rough.shape, place, radius if radius <= edge.cell else 0.0)] = True
    settled = edge.settle(rough, fixed, PreviousEdge(seen, (rough != before) | around, around))
    missed = circle / (area + circle if positive else area)
    trust = next_trust(rough, settled, seen, missed, calibration)
    score = next_confidence(trust, previous.score)
    return Refinement(PackedMask.of(rough), PackedMask.of(settled), discs, thresholds, score, trust, bound)


def _changed(
    before: NDArray[np.bool_], change: NDArray[np.bool_], click: NewClick, radius: float, limits: ClickLimits
) -> tuple[NDArray[np.bool_], Bound]:
    """The mask after a click, bool [H, W], and what limited it: see :mod:`m2n2_backend.m2n2.refine.limits`."""
    bound = Bound(radius, limits.whole, int(np.count_nonzero(change)))
    if bound.edits:
        part = connected_with(change, click.prompt.place)
        if part.any():
            change, bound = part, Bound(radius, limits.part, int(np.count_nonzero(part)))
    if not bound.edits:
        return before ^ change, bound
    positive = click.prompt.positive
    mask = edit(before, click.levels, click.profile, positive=positive, other=click.other, most=limits.edit)
    return mask, bound


def _apart(place: Place, discs: Sequence[PinnedPixels], positive: bool) -> float:
    """Distance from a click to the nearest earlier prompt of the other label, at least 1; infinite for a scribble.

    A pixel that was pointed at is right, so the error that a click is about ends before it.
    """
    if isinstance(place, Stroke):
        return math.inf
    others = [index_of(own.point) for own in discs if own.positive != positive]
    apart = (float(np.hypot(np.subtract(rows, place[0]), np.subtract(cols, place[1])).min()) for rows, cols in others)
    return max(1.0, min(apart, default=math.inf))


def _fixed(shape: tuple[int, ...], discs: Sequence[PinnedPixels]) -> NDArray[np.int8]:
    """1 in foreground discs, -1 in background discs, 0 elsewhere, int8 [H, W].

    Each prompt's own pixels have its label even under the disc of another: they were pointed at, a disc is inferred.
    """
    fixed = np.zeros((shape[0], shape[1]), np.int8)
    for own in discs:
        fixed[disc(shape, own.point, own.radius)] = 1 if own.positive else -1
    for own in discs:
        fixed[index_of(own.point)] = 1 if own.positive else -1
    return fixed
