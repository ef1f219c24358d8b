"""Clicks → mask: the steps of the paper in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.images import rgb_of
from m2n2_backend.m2n2.box import INNER, box_distance, cells_within, inner_parts, within_boxes
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.memo_keys import prefix_keys
from m2n2_backend.m2n2.paper.attention import Backbone, aggregate
from m2n2_backend.m2n2.paper.nearest import nearest_neighbor
from m2n2_backend.m2n2.paper.threshold import choose_threshold
from m2n2_backend.m2n2.paper.transition import Transition
from m2n2_backend.m2n2.paper.upsample import JointBilateral, joint_bilateral
from m2n2_backend.m2n2.places import Place, index_of, level_at
from m2n2_backend.m2n2.postprocess import resize_distance, smooth_specks, stability
from m2n2_backend.m2n2.prompt_maps import (
    cell_maps,
    cells_under,
    maps_together,
    place_of,
    prompt_maps,
    ranked_maps,
    start_at,
    working_pixel,
)
from m2n2_backend.m2n2.refine.band import WIDTH
from m2n2_backend.m2n2.refine.object_cut import CoarseGraph, cut_object
from m2n2_backend.m2n2.refine.steps import Edge, NewClick, Refinement, first_step, next_step
from m2n2_backend.m2n2.released.steps import best_threshold, nearest_prompt
from m2n2_backend.m2n2.released.upsample_solution import solution_bilateral
from m2n2_backend.m2n2.resize import reduced
from m2n2_backend.m2n2.segmentation import Segmentation, inner_of, refined_segmentation
from m2n2_backend.m2n2.semantic_distance import MarkovDistance, semantic_distance_of
from m2n2_backend.m2n2.state import EncodedImage, ImageState, PromptMap
from m2n2_backend.prompts import Click, PointPrompt, Prompts, Region


class Paused(Exception):
    """A caller wanted the rest later. What was found is in the state's memo, and the same call goes on from there."""


def never() -> bool:
    """The answer of a caller who waits for all steps."""
    return False


@dataclass
class _Clicked:
    """What is known of the clicks so far, so that one more costs its own map and no more.

    Attributes:
        maps: M' of each.
        at: M' of each at each of them, in levels.
    """

    maps: Sequence[PromptMap] = ()
    at: list[list[int]] = field(default_factory=list)

    def extend(self, maps: Sequence[PromptMap], points: Sequence[Place]) -> None:
        """Go on to more clicks: ``maps`` and ``points`` are those of all."""
        for own, row in zip(maps, self.at, strict=False):
            row += [level_at(own.levels, point) for point in points[len(row) :]]
        self.at += [[level_at(own.levels, point) for point in points] for own in maps[len(self.at) :]]
        self.maps = maps


@dataclass(frozen=True)
class _PaperAnswer:
    """What the paper's rule says of some prompts: the distance, and map and λ (in levels) of each click."""

    distance: NDArray[np.float32]
    maps: Sequence[PromptMap]
    levels: Sequence[int]

    @property
    def thresholds(self) -> tuple[float, ...]:
        return tuple(level * own.step for level, own in zip(self.levels, self.maps, strict=True))


class Segmenter:
    """Stateless: ``encode`` once per photograph, ``segment`` for every set of prompts.

    Attributes:
        backbone: What looks at the photograph.
        method: All hyperparameters.
        band: The method's ``band``, or the backbone's.
    """

    def __init__(self, backbone: Backbone, method: Hyperparameters | None = None) -> None:
        self.backbone = backbone
        self.method = method or Hyperparameters()
        own = getattr(backbone, "band", WIDTH)
        self.band: float = own if self.method.band is None else self.method.band

    def encode(self, picture: Any) -> ImageState:
        """Run the model and prepare for clicks: steps 1 and 2, and the JBU operator.

        Args:
            picture: A PIL image, uint8 [H, W, 3], or what else :func:`m2n2_backend.images.rgb_of` takes.

        Raises:
            InvalidImage: It is not a photograph.
        """
        return self.prepare(self.extract(picture))

    def extract(self, picture: Any) -> EncodedImage:
        """Run the model: the part of ``encode`` that is worth keeping on disk.

        Args:
            picture: As of ``encode``.

        Raises:
            InvalidImage: It is not a photograph.
        """
        rgb = rgb_of(picture)
        features = self.backbone.features(rgb)
        return EncodedImage((rgb.shape[0], rgb.shape[1]), features, reduced(rgb, self.method.working_size))

    @torch.inference_mode()
    def prepare(self, encoded: EncodedImage, upsample: JointBilateral | None = None) -> ImageState:
        """Build what clicks need: matrix (steps 1 and 2) and JBU operator.

        Args:
            encoded: Of a segmenter with equal backbone and working size.
            upsample: The operator of an earlier state of the same photograph, if it is still there.

        Raises:
            FloatingPointError: The features are not finite.
        """
        features = encoded.features
        half = self.method.half_softmax and self.backbone.device.type == "cuda"
        attention = aggregate(features, self.backbone.device, half_softmax=half)
        relation = semantic_distance_of(attention, self.method)
        # An accelerator is still busy with the powers of the matrix, which nobody has waited for.
        upsample = upsample or self.joint_bilateral(encoded)
        return ImageState(
            size=encoded.size,
            grid=(features.height, features.width),
            relation=relation,
            upsample=upsample,
            device=attention.device,
            guide=encoded.guide,
            copy=CoarseGraph.of(encoded.guide) if self.method.refine and self.method.cut else None,
        )

    def joint_bilateral(self, encoded: EncodedImage) -> JointBilateral:
        """The JBU operator of one photograph."""
        method, features = self.method, encoded.features
        if method.jbu == "solution":
            return solution_bilateral(encoded.guide, features.height, features.width)
        return joint_bilateral(
            encoded.guide, features.height, features.width, radius=method.radius, samples=method.samples
        )

    @torch.inference_mode()
    def segment(
        self,
        state: ImageState,
        clicks: PointPrompt | Sequence[PointPrompt] = (),
        box: Region | Sequence[Region] | None = None,
        *,
        pause: Callable[[], bool] = never,
    ) -> Segmentation:
        """Steps 3 to 7, for each prefix of the prompts in turn if the method refines (see ``refined``).

        Args:
            state: Of the same segmenter.
            clicks: One or several, also scribbles, in pixels of the photograph; each computes a map once per image.
            box: Or polygon: the object lies inside, or a part of it in each of several; needs ``relation="markov"``.
            pause: Asked between two prefixes; True ends the call early.

        Raises:
            InvalidPrompt: A prompt lies outside the photograph, none is foreground, there are too many, there is a
                box without the Markov relation, or the released code, which has neither boxes nor scribbles, is asked
                for one.
            Paused: ``pause`` said so.
        """
        height, width = state.size
        clicks = (clicks,) if isinstance(clicks, PointPrompt) else clicks
        boxes = (box,) if isinstance(box, Region) else tuple(box or ())
        prompts = Prompts(tuple(clicks), boxes)
        prompts.validate(width, height)
        if self.method.rules == "released":
            return self._released(state, prompts)
        points, labels = _working_clicks(state, clicks)
        if self.method.refine:
            return refined_segmentation(state.size, self._refined(state, points, labels, boxes, pause), prompts)
        clicked = _Clicked()
        clicked.extend(prompt_maps(self.method, state, points), points)
        answer = self._answer(state, points, labels, boxes, clicked)
        mask = resize_distance(answer.distance, height, width) <= 1.0
        if boxes:
            # Interpolation and filled holes may reach beyond the boxes; only clicks are allowed to.
            allowed = within_boxes(boxes, state.size, state.size)
            if any(labels):
                levels = [own.levels for own in answer.maps]
                nearest = nearest_neighbor(levels, answer.levels, labels)
                allowed |= resize_distance(nearest, height, width) <= 1.0
            mask &= allowed
            if not mask.any():
                mask = inner_of(prompts, state.size)
        score = stability(answer.distance) if mask.any() else 0.0
        return Segmentation(mask, answer.distance, answer.thresholds, score, prompts)

    def _released(self, state: ImageState, prompts: Prompts) -> Segmentation:
        """What the released code answers (see ``released``); thresholds are shares of each map's maximum."""
        clicks = [click for click in prompts.clicks if isinstance(click, Click)]
        if prompts.boxes or len(clicks) < len(prompts.clicks):
            raise InvalidPrompt("the released code has no boxes and no scribbles")
        points, labels = [working_pixel(state, click) for click in clicks], [click.positive for click in clicks]
        maps = ranked_maps(self.method, state, points)
        thresholds = []
        for own, label in zip(maps, labels, strict=True):
            at = [(float(own.distance[point]), each == label) for point, each in zip(points, labels, strict=True)]
            same, other = ([value for value, equal in at if equal is wanted] for wanted in (True, False))
            thresholds.append(best_threshold(own, same, other, scores=self.method.scores, prior=self.method.prior))
        distance = nearest_prompt(maps, thresholds, points, labels)
        mask = resize_distance(distance, *state.size) <= 1.0
        return Segmentation(mask, distance, tuple(thresholds), stability(distance), prompts)

    def _answer(
        self,
        state: ImageState,
        points: Sequence[Place],
        labels: Sequence[bool],
        boxes: Sequence[Region],
        clicked: _Clicked,
    ) -> _PaperAnswer:
        """The paper's rule for all prompts at once: steps 3 to 7 and the removal of specks."""
        maps, least_area = clicked.maps, self.least_area(state)
        levels = [self._threshold(index, clicked, labels, least_area) for index in range(len(maps))]
        within = [self._box_distance(state, each, points, labels) for each in boxes]
        nearest_box = np.minimum.reduce(within) if within else None
        distance = nearest_neighbor([own.levels for own in maps], levels, labels, nearest_box)
        if self.method.despeckle > 0:
            smooth_specks(distance, self.method.despeckle, [index_of(point) for point in points])
        return _PaperAnswer(distance, maps, levels)

    def _refined(
        self,
        state: ImageState,
        points: Sequence[Place],
        labels: Sequence[bool],
        boxes: tuple[Region, ...],
        pause: Callable[[], bool] = never,
    ) -> Refinement:
        """The masks after each prefix of the prompts in turn, from the longest that is in the memo."""
        first = 0 if boxes else list(labels).index(True) + 1
        prefixes = prefix_keys(boxes, points, labels)[first:]
        found = ((index, state.steps.get(prefixes[index])) for index in reversed(range(len(prefixes))))
        known, step = next(((index, step) for index, step in found if step is not None), (-1, None))
        together, clicked = maps_together(self.method, state), _Clicked()
        for index in range(known + 1, len(prefixes)):
            if index > known + 1 and pause():
                raise Paused
            end = first + index
            ahead = -(-end // together) * together  # whole batches: later steps find theirs
            clicked.extend(prompt_maps(self.method, state, points[:ahead])[:end], points[:end])
            step = self._step(state, points[:end], labels[:end], boxes, clicked, step)
            state.steps.put(prefixes[index], step)
        assert step is not None
        return step

    def _step(
        self,
        state: ImageState,
        points: Sequence[Place],
        labels: Sequence[bool],
        boxes: tuple[Region, ...],
        clicked: _Clicked,
        previous: Refinement | None,
    ) -> Refinement:
        """One more click, or the first prompts."""
        answer = self._answer(state, points, labels, boxes, clicked)
        if state.copy and not boxes and labels[-1]:
            rough = cut_object(state.copy, answer.distance, points, labels)
        else:
            rough = answer.distance <= 1.0
        (height, width), (rows, cols) = state.working_size, state.grid
        edge = Edge(state.guide, math.sqrt(height * width / (rows * cols)), self.band)
        if previous is None:
            inside = None
            if boxes:
                inside = within_boxes(boxes, state.size, state.working_size)
            return first_step(rough, points, labels, edge, inside, answer.thresholds)
        own = answer.maps[-1]
        other = [level for level, label in zip(clicked.at[-1], labels, strict=True) if label != labels[-1]]
        click = NewClick(points[-1], labels[-1], own.levels, own.profile, other)
        return next_step(previous, rough, click, edge, self.method.kappa, answer.thresholds)

    @torch.inference_mode()
    def refined_step(self, state: ImageState, prompts: Prompts) -> Refinement:
        """What ``segment`` refined the prompts to, and what the last click was allowed.

        Raises:
            ValueError: The method does not refine.
            InvalidPrompt: As of ``segment``.
        """
        if not self.method.refine:
            raise ValueError("only a method that refines has steps")
        prompts.validate(state.size[1], state.size[0])
        return self._refined(state, *_working_clicks(state, prompts.clicks), prompts.boxes)

    def prompt_map(self, state: ImageState, click: PointPrompt) -> PromptMap:
        """M' and threshold profile of one click or scribble, which ``segment`` then finds in the memo.

        Raises:
            InvalidPrompt: It lies outside the photograph.
        """
        Prompts((click,)).check_inside(state.size[1], state.size[0])
        return prompt_maps(self.method, state, [place_of(state, click)])[0]

    @torch.inference_mode()
    def attention(self, picture: Any) -> NDArray[np.float32]:
        """A, the weighted mean of the model's self-attentions (Eq. 3): float32 [n, n], rows sum to 1. Runs the model.

        Args:
            picture: As of ``encode``.
        """
        return np.asarray(aggregate(self.backbone.features(rgb_of(picture)), self.backbone.device).cpu())

    def transition_matrix(self, state: ImageState) -> NDArray[np.float32]:
        """P (Eq. 5 and IPF): float32 [n, n], rows and columns sum to 1; cells go row by row.

        Raises:
            InvalidPrompt: The method is a baseline, which has none.
        """
        return np.asarray(_transition(state).matrix.cpu())

    @torch.inference_mode()
    def markov_map(self, state: ImageState, click: Click, *, upsampled: bool = True) -> NDArray[np.float32]:
        """M of a click (Eq. 6), in steps of the chain: float32 [H', W'] at working size, or [h, w] before the JBU.

        Raises:
            InvalidPrompt: The click lies outside the photograph.
        """
        Prompts((click,)).check_inside(state.size[1], state.size[0])
        start = start_at(self.method, state, place_of(state, click))
        small = cell_maps(self.method, state, [start])[start]
        return state.upsample.apply(small) if upsampled else small.copy()

    def flooded_map(self, state: ImageState, click: Click) -> NDArray[np.float32]:
        """M' of a click (Algorithm 1), in steps of the chain: float32 [H', W'] at working size, 0 at the click.

        Raises:
            InvalidPrompt: The click lies outside the photograph.
        """
        own = self.prompt_map(state, click)
        return own.levels * np.float32(own.step)

    def least_area(self, state: ImageState) -> float:
        """Share of the image below which a segment is no candidate."""
        return self.method.least_cells / (state.grid[0] * state.grid[1])

    def _threshold(
        self,
        index: int,
        clicked: _Clicked,
        labels: Sequence[bool],
        least_area: float,
    ) -> int:
        own, at, method = clicked.maps[index], clicked.at[index], self.method
        if method.fixed_threshold is not None:
            return max(1, int(method.fixed_threshold * int(own.levels.max())))
        same = [level for level, label in zip(at, labels, strict=True) if label == labels[index]]
        other = [level for level, label in zip(at, labels, strict=True) if label != labels[index]]
        return choose_threshold(
            own.profile, same, other, scores=method.scores, prior=method.prior, least_area=least_area
        )

    def _box_distance(
        self, state: ImageState, box: Region, points: Sequence[Place], labels: Sequence[bool]
    ) -> NDArray[np.float32]:
        """Distance of the box prompt at working size; infinite outside of the box."""
        cells = [np.unique(cells_under(state, point)).tolist() for point in points]
        small = box_distance(
            _transition(state),
            cells_within(box, state.size, state.grid),
            cells_within(box, state.size, state.grid, INNER),
            positive=[cell for own, label in zip(cells, labels, strict=True) if label for cell in own],
            negative=[cell for own, label in zip(cells, labels, strict=True) if not label for cell in own],
        )
        full = state.upsample.apply(small.reshape(state.grid))
        full[~within_boxes([box], state.size, state.working_size)] = np.inf
        if not (full <= 1.0).any():
            full[inner_parts([box], state.size, state.working_size)] = 1.0
        return full


def _working_clicks(state: ImageState, clicks: Sequence[PointPrompt]) -> tuple[list[Place], list[bool]]:
    """Places at working size, and labels."""
    return [place_of(state, click) for click in clicks], [click.positive for click in clicks]


def _transition(state: ImageState) -> Transition:
    if not isinstance(state.relation, MarkovDistance):
        raise InvalidPrompt("only the Markov relation has a transition matrix; a box needs the Markov relation too")
    return state.relation.transition
