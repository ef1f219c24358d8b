"""How an image and its prompts become a mask: the steps that may be replaced, and the paper's rule.

A rule takes the upsampled maps to a mask. The paper's is here; ``refine`` and ``released`` have one each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.m2n2.box import INNER, box_distance, cells_within, inner_parts, within_boxes
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.markov import Crossing, interpolated
from m2n2_backend.m2n2.paper.nearest import nearest_neighbor
from m2n2_backend.m2n2.paper.threshold import choose_threshold
from m2n2_backend.m2n2.paper.transition import Fit, Transition, accelerated_fit
from m2n2_backend.m2n2.paper.upsample import JointBilateral, joint_bilateral
from m2n2_backend.m2n2.places import Placed, index_of, level_at, split
from m2n2_backend.m2n2.postprocess import object_at, smooth_specks, stability
from m2n2_backend.m2n2.prompt_maps import cells_under, place_of, prompt_maps, start_in_cell
from m2n2_backend.m2n2.segmentation import Segmentation, inner_of
from m2n2_backend.m2n2.semantic_distance import MarkovDistance
from m2n2_backend.m2n2.state import ImageState, PromptMap, StartRule
from m2n2_backend.prompts import PointPrompt, Prompts, Region

Upsampling: TypeAlias = Callable[[NDArray[np.uint8], int, int], JointBilateral]
"""Guide, uint8 [H, W, 3], and rows and columns of the grid → the upsampling operator."""


class Paused(Exception):
    """The caller asked for a pause. The results so far are in the state's memo, and the same call continues there."""


def never() -> bool:
    """The ``pause`` of a caller who waits for all steps."""
    return False


@dataclass(frozen=True)
class EarlySteps:
    """The steps before the maps, each of which may be done in another way.

    Attributes:
        half_softmax: Whether each head's softmax is taken in 16-bit.
        fit: The fit of step 2.
        crossing: When a cell of step 3 is reached.
        start: Where a click's chain starts.
        upsampling: Step 4.
    """

    upsampling: Upsampling
    half_softmax: bool = False
    fit: Fit = accelerated_fit
    crossing: Crossing = interpolated
    start: StartRule = start_in_cell

    @classmethod
    def of_paper(cls, method: Hyperparameters) -> EarlySteps:
        """The steps of the paper."""
        return cls(partial(joint_bilateral, radius=method.radius, samples=method.samples))


class Rule(Protocol):
    """Steps 5 to 7: the prompts and the upsampled maps → a mask."""

    def segment(self, state: ImageState, prompts: Prompts, pause: Callable[[], bool]) -> Segmentation:
        """Answer validated prompts; see :meth:`m2n2_backend.m2n2.segmenter.Segmenter.segment`."""
        ...


@dataclass
class Clicked:
    """The maps of the clicks so far, compared with each other: one more click costs only its own map.

    Attributes:
        maps: M' of each click.
        at: M' of each click at each of the clicks, in levels.
    """

    maps: Sequence[PromptMap] = ()
    at: list[list[int]] = field(default_factory=list)

    def extend(self, maps: Sequence[PromptMap], prompts: Sequence[Placed]) -> None:
        """Add more clicks: ``maps`` and ``prompts`` are those of all clicks, the known ones first."""
        for own, row in zip(maps, self.at, strict=False):
            row += [level_at(own.levels, prompt.place) for prompt in prompts[len(row) :]]
        self.at += [[level_at(own.levels, prompt.place) for prompt in prompts] for own in maps[len(self.at) :]]
        self.maps = maps


@dataclass(frozen=True)
class _PaperAnswer:
    """The paper's answer to some prompts: the distance, and map and λ (in levels) of each click."""

    distance: NDArray[np.float32]
    maps: Sequence[PromptMap]
    levels: Sequence[int]

    @property
    def thresholds(self) -> tuple[float, ...]:
        return tuple(level * own.step for level, own in zip(self.levels, self.maps, strict=True))


@dataclass(frozen=True)
class PaperRule:
    """The paper's rule for all prompts at once, with boxes and the removal of specks."""

    method: Hyperparameters

    def segment(self, state: ImageState, prompts: Prompts, pause: Callable[[], bool]) -> Segmentation:
        """Steps 5 to 7, and the mask at the photograph's size; there is nothing to pause."""
        placed, boxes = placed_at(state, prompts.clicks), prompts.boxes
        clicked = Clicked()
        clicked.extend(prompt_maps(self.method, state, [each.place for each in placed]), placed)
        answer = self.answer(state, placed, boxes, clicked)
        mask = object_at(answer.distance, state.size)
        if boxes:
            # Interpolation and filled holes may reach beyond the boxes; only clicks are allowed to.
            allowed = within_boxes(boxes, state.size, state.size)
            if any(each.positive for each in placed):
                allowed |= object_at(_nearest(answer.maps, answer.levels, placed), state.size)
            mask &= allowed
            if not mask.any():
                mask = inner_of(prompts, state.size)
        score = stability(answer.distance) if mask.any() else 0.0
        return Segmentation(mask, answer.distance, answer.thresholds, score, prompts)

    def answer(
        self, state: ImageState, prompts: Sequence[Placed], boxes: Sequence[Region], clicked: Clicked
    ) -> _PaperAnswer:
        """Steps 6 and 7 at working size, and the removal of specks."""
        levels = [self._threshold(state, index, prompts, clicked) for index in range(len(prompts))]
        within = [_distance_in_box(state, each, prompts) for each in boxes]
        distance = _nearest(clicked.maps, levels, prompts, np.minimum.reduce(within) if within else None)
        if self.method.despeckle > 0:
            smooth_specks(distance, self.method.despeckle, [index_of(each.place) for each in prompts])
        return _PaperAnswer(distance, clicked.maps, levels)

    def _threshold(self, state: ImageState, index: int, prompts: Sequence[Placed], clicked: Clicked) -> int:
        own, method = clicked.maps[index], self.method
        if method.fixed_threshold is not None:
            return max(1, int(method.fixed_threshold * int(own.levels.max())))
        same, other = split(clicked.at[index], prompts, prompts[index].positive)
        return choose_threshold(
            own.profile,
            same,
            other,
            scores=method.scores,
            prior=method.prior,
            least_area=least_area(method, state),
        )


def least_area(method: Hyperparameters, state: ImageState) -> float:
    """Share of the image below which a segment is not a candidate."""
    return method.least_cells / (state.grid[0] * state.grid[1])


def placed_at(state: ImageState, prompts: Sequence[PointPrompt]) -> list[Placed]:
    """Clicks and scribbles at working size."""
    return [Placed(place_of(state, prompt), prompt.positive) for prompt in prompts]


def transition_of(state: ImageState) -> Transition:
    """The chain of an image.

    Raises:
        InvalidPrompt: The method is a baseline, which has none.
    """
    if not isinstance(state.relation, MarkovDistance):
        raise InvalidPrompt("only the Markov relation has a transition matrix; a box needs the Markov relation too")
    return state.relation.transition


def _nearest(
    maps: Sequence[PromptMap],
    thresholds: Sequence[int],
    prompts: Sequence[Placed],
    of_boxes: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    return nearest_neighbor([own.levels for own in maps], thresholds, [each.positive for each in prompts], of_boxes)


def _distance_in_box(state: ImageState, box: Region, prompts: Sequence[Placed]) -> NDArray[np.float32]:
    """Distance of the box prompt at working size; infinite outside of the box."""
    cells = [np.unique(cells_under(state, each.place)).tolist() for each in prompts]
    positive, negative = split(cells, prompts, True)
    small = box_distance(
        transition_of(state),
        cells_within(box, state.size, state.grid),
        cells_within(box, state.size, state.grid, INNER),
        positive=list(chain.from_iterable(positive)),
        negative=list(chain.from_iterable(negative)),
    )
    full = state.upsample.apply(small.reshape(state.grid))
    full[~within_boxes([box], state.size, state.working_size)] = np.inf
    if not (full <= 1.0).any():
        full[inner_parts([box], state.size, state.working_size)] = 1.0
    return full
