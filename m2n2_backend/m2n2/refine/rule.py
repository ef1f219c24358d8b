"""The refined rule: the masks after each prefix of the prompts in turn, each found again in the image's memo."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from m2n2_backend.m2n2.box import within_boxes
from m2n2_backend.m2n2.places import Placed, prefix_keys, split
from m2n2_backend.m2n2.prompt_maps import maps_together, prompt_maps
from m2n2_backend.m2n2.refine.confidence import Calibration, ambiguity_of
from m2n2_backend.m2n2.refine.object_cut import cut_object
from m2n2_backend.m2n2.refine.steps import Edge, NewClick, Refinement, first_step, next_step
from m2n2_backend.m2n2.segmentation import Segmentation, refined_segmentation
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.m2n2.strategy import Clicked, PaperRule, Paused, least_area, never, placed_at
from m2n2_backend.prompts import Prompts, Region


@dataclass(frozen=True)
class RefinedRule(PaperRule):
    """The paper's answers, refined click by click.

    Attributes:
        band: Width of the band on either side of the mask's edge, in cells.
        calibration: The backbone's, for the score.
    """

    band: float
    calibration: Calibration

    def segment(self, state: ImageState, prompts: Prompts, pause: Callable[[], bool]) -> Segmentation:
        """Refine the prompts, and bring the mask to the photograph's size."""
        step = self.refinement(state, prompts, pause)
        return refined_segmentation(state.size, step, prompts, self.method.despeckle)

    def refinement(self, state: ImageState, prompts: Prompts, pause: Callable[[], bool] = never) -> Refinement:
        """The refinement of all prompts, from that of the longest prefix in the memo on.

        Raises:
            Paused: ``pause``, which is called between two prefixes, returned True.
        """
        placed, boxes = placed_at(state, prompts.clicks), prompts.boxes
        first = 0 if boxes else [each.positive for each in placed].index(True) + 1
        prefixes = prefix_keys(boxes, placed)[first:]
        found = ((index, state.steps.get(prefixes[index])) for index in reversed(range(len(prefixes))))
        known, step = next(((index, step) for index, step in found if step is not None), (-1, None))
        together, clicked = maps_together(self.method, state), Clicked()
        places = [each.place for each in placed]
        for index in range(known + 1, len(prefixes)):
            if index > known + 1 and pause():
                raise Paused
            end = first + index
            ahead = -(-end // together) * together  # whole batches: later steps find their maps in the memo
            clicked.extend(prompt_maps(self.method, state, places[:ahead])[:end], placed[:end])
            step = self._step(state, placed[:end], boxes, clicked, step)
            state.steps.put(prefixes[index], step)
        assert step is not None
        return step

    def _step(
        self,
        state: ImageState,
        prompts: Sequence[Placed],
        boxes: tuple[Region, ...],
        clicked: Clicked,
        previous: Refinement | None,
    ) -> Refinement:
        """Refine one more click, or the first prompts."""
        answer = self.answer(state, prompts, boxes, clicked)
        if state.copy and not boxes and prompts[-1].positive:
            rough = cut_object(state.copy, answer.distance, prompts)
        else:
            rough = answer.distance <= 1.0
        cell = math.sqrt(math.prod(state.working_size) / math.prod(state.grid))
        edge = Edge(state.guide, cell, self.band, self.method.despeckle)
        if previous is None:
            inside = within_boxes(boxes, state.size, state.working_size) if boxes else None
            least = least_area(self.method, state)
            ambiguity = ambiguity_of(answer.maps[-1].profile, answer.levels[-1], least) if answer.maps else None
            return first_step(rough, prompts, edge, inside, answer.thresholds, ambiguity, self.calibration)
        own, new = answer.maps[-1], prompts[-1]
        _, other = split(clicked.at[-1], prompts, new.positive)
        click = NewClick(new, own.levels, own.profile, other)
        return next_step(previous, rough, click, edge, self.method.kappa, answer.thresholds, self.calibration)
