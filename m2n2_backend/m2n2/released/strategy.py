"""The authors' released code as a strategy of its own: its steps before the maps, and its rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.places import Place, Placed, index_of, split
from m2n2_backend.m2n2.postprocess import object_at, stability
from m2n2_backend.m2n2.prompt_maps import contributions, working_pixel
from m2n2_backend.m2n2.released.chain import crossing_as_released, plain_sweeps, start_in_four_cells
from m2n2_backend.m2n2.released.steps import RankedMap, best_threshold, nearest_prompt, ranked_map
from m2n2_backend.m2n2.released.upsample_solution import solution_bilateral
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.m2n2.strategy import EarlySteps
from m2n2_backend.prompts import Click, Prompts


def with_released_steps(steps: EarlySteps, method: Hyperparameters) -> EarlySteps:
    """Replace the steps that the hyperparameters take from the released code."""
    if method.half_softmax:
        steps = replace(steps, half_softmax=True)
    if method.ipf == "plain":
        steps = replace(steps, fit=plain_sweeps)
    if method.crossing == "released":
        steps = replace(steps, crossing=crossing_as_released)
    if method.start == "bilinear":
        steps = replace(steps, start=start_in_four_cells)
    if method.jbu == "solution":
        steps = replace(steps, upsampling=solution_bilateral)
    return steps


@dataclass(frozen=True)
class ReleasedRule:
    """Steps 5 to 7 of the released code; thresholds are shares of each map's maximum."""

    method: Hyperparameters

    def segment(self, state: ImageState, prompts: Prompts, pause: Callable[[], bool]) -> Segmentation:
        """Answer clicks; there is nothing to pause.

        Raises:
            InvalidPrompt: There is a box or a scribble, which the released code does not have.
        """
        clicks = [click for click in prompts.clicks if isinstance(click, Click)]
        if prompts.boxes or len(clicks) < len(prompts.clicks):
            raise InvalidPrompt("the released code has no boxes and no scribbles")
        points = [working_pixel(state, click) for click in clicks]
        placed = [Placed(point, click.positive) for point, click in zip(points, clicks, strict=True)]
        maps = contributions(self.method, state, points, _ranked_map, b"ranked ")
        thresholds = []
        for own, prompt in zip(maps, placed, strict=True):
            same, other = split([float(own.distance[point]) for point in points], placed, prompt.positive)
            thresholds.append(best_threshold(own, same, other, scores=self.method.scores, prior=self.method.prior))
        distance = nearest_prompt(maps, thresholds, placed)
        mask = object_at(distance, state.size)
        return Segmentation(mask, distance, tuple(thresholds), stability(distance), prompts)


def _ranked_map(method: Hyperparameters, place: Place, full: NDArray[np.float32]) -> RankedMap:
    return ranked_map(full, *index_of(place), flood_fill=method.flood_fill)
