"""Clicks → mask: the steps of the paper in order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.attention import Backbone, aggregate
from m2n2_backend.m2n2.box import INNER, box_distance
from m2n2_backend.m2n2.flood_fill import flood_fill, quantize
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.nearest import nearest_neighbor
from m2n2_backend.m2n2.postprocess import resize_distance, smooth_specks, stability
from m2n2_backend.m2n2.refined import Edge, NewClick, Step, distance_of, first_step, next_step
from m2n2_backend.m2n2.relations import (
    ATTENTION_TEMPERATURE,
    KL_TEMPERATURE,
    AttentionRelation,
    DivergenceRelation,
    MarkovRelation,
    Relation,
    tempered,
)
from m2n2_backend.m2n2.state import EncodedImage, ImageState, PromptMap
from m2n2_backend.m2n2.threshold import choose_threshold, profile
from m2n2_backend.m2n2.transition import transition_matrix
from m2n2_backend.m2n2.upsample import JointBilateral, cell_of_pixels, joint_bilateral
from m2n2_backend.prompts import Box, Click, Prompts

ACCELERATOR_BATCH = 8
"""Chains of new clicks that run together on an accelerator; on a CPU one after the other is faster."""


@dataclass(frozen=True)
class Segmentation:
    """One object.

    Attributes:
        mask: bool [H, W], the photograph's own size.
        distance: Distance to the foreground at working size, float32; object where ≤ 1. A refined mask's own, which
            has a slope at the edge only where it was resized.
        thresholds: λ_i of each click in order, in steps of the chain (the relation's unit for a baseline).
        score: Stability in [0, 1]: area of {distance ≤ 1/1.1} over area of {distance ≤ 1.1}. Near 1 the mask's edge
            is sharp in the map, near 0 a slightly other threshold gives another mask. No probability. Of a refined
            mask it is that of the paper's answer to the same prompts.
    """

    mask: NDArray[np.bool_]
    distance: NDArray[np.float32]
    thresholds: tuple[float, ...]
    score: float


@dataclass(frozen=True)
class _Answer:
    """What the paper's rule says of some prompts: the distance, and map and λ (in levels) of each click."""

    distance: NDArray[np.float32]
    maps: Sequence[PromptMap]
    levels: Sequence[int]

    @property
    def thresholds(self) -> tuple[float, ...]:
        return tuple(level * own.step for level, own in zip(self.levels, self.maps, strict=True))


class Segmenter:
    """Stateless: ``encode`` once per photograph, ``segment`` for every set of prompts."""

    def __init__(self, backbone: Backbone, method: Method | None = None) -> None:
        self.backbone = backbone
        self.method = method or Method()

    def encode(self, rgb: NDArray[np.uint8]) -> ImageState:
        """Run the model and prepare for clicks: steps 1 and 2, and the JBU operator.

        Args:
            rgb: uint8 [H, W, 3].
        """
        return self.prepare(self.extract(rgb))

    def extract(self, rgb: NDArray[np.uint8]) -> EncodedImage:
        """Run the model: the part of ``encode`` that is worth keeping on disk.

        Args:
            rgb: uint8 [H, W, 3].
        """
        features = self.backbone.features(rgb)
        return EncodedImage((rgb.shape[0], rgb.shape[1]), features, _reduce(rgb, self.method.working_size))

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
        attention = aggregate(features, self.backbone.device)
        return ImageState(
            size=encoded.size,
            grid=(features.height, features.width),
            relation=relation_of(attention, self.method),
            upsample=upsample or self.joint_bilateral(encoded),
            device=attention.device,
            guide=encoded.guide,
        )

    def joint_bilateral(self, encoded: EncodedImage) -> JointBilateral:
        """The JBU operator of one photograph."""
        method, features = self.method, encoded.features
        return joint_bilateral(
            encoded.guide, features.height, features.width, radius=method.radius, samples=method.samples
        )

    @torch.inference_mode()
    def segment(
        self, state: ImageState, clicks: Sequence[Click], box: Box | Sequence[Box] | None = None
    ) -> Segmentation:
        """Steps 3 to 7, for each prefix of the prompts in turn if the method refines (see ``refined``).

        Args:
            state: Of the same segmenter.
            clicks: In pixels of the photograph; each computes a map once per image.
            box: The object lies inside, or a part of it in each of several; needs ``relation="markov"``.

        Raises:
            InvalidPrompt: A prompt lies outside the photograph, or none is foreground.
        """
        height, width = state.size
        boxes = (box,) if isinstance(box, Box) else tuple(box or ())
        Prompts(tuple(clicks), boxes).validate(width, height)
        points = [self._pixel(state, click) for click in clicks]
        labels = [click.positive for click in clicks]
        if self.method.refine:
            return self._segmentation(state, self._refined(state, points, labels, boxes), boxes, any(labels))
        answer = self._answer(state, points, labels, boxes)
        mask = resize_distance(answer.distance, height, width) <= 1.0
        if boxes:
            # Interpolation and filled holes may reach beyond the boxes; only clicks are allowed to.
            allowed = _inside(boxes, height, width)
            if any(labels):
                levels = [own.levels for own in answer.maps]
                clicked = nearest_neighbor(levels, answer.levels, labels)
                allowed |= resize_distance(clicked, height, width) <= 1.0
            mask &= allowed
        return Segmentation(mask, answer.distance, answer.thresholds, stability(answer.distance))

    def _answer(
        self, state: ImageState, points: Sequence[tuple[int, int]], labels: Sequence[bool], boxes: Sequence[Box]
    ) -> _Answer:
        """The paper's rule for all prompts at once: steps 3 to 7 and the removal of specks."""
        maps = self._prompt_maps(state, points)
        least_area = self.least_area(state)
        levels = [self._threshold(index, maps, points, labels, least_area) for index in range(len(maps))]
        within = [self._box_distance(state, each, points, labels) for each in boxes]
        nearest_box = np.minimum.reduce(within) if within else None
        distance = nearest_neighbor([own.levels for own in maps], levels, labels, nearest_box)
        if self.method.despeckle > 0:
            smooth_specks(distance, self.method.despeckle, points)
        return _Answer(distance, maps, levels)

    def _refined(
        self, state: ImageState, points: Sequence[tuple[int, int]], labels: Sequence[bool], boxes: tuple[Box, ...]
    ) -> Step:
        """The masks after each prefix of the prompts in turn, from the longest that is in the memo."""
        first = 0 if boxes else list(labels).index(True) + 1
        prefixes = [(boxes, tuple(points[:end]), tuple(labels[:end])) for end in range(first, len(points) + 1)]
        found = ((index, state.steps.get(prefixes[index])) for index in reversed(range(len(prefixes))))
        known, step = next(((index, step) for index, step in found if step is not None), (-1, None))
        for prefix in prefixes[known + 1 :]:
            step = self._step(state, prefix[1], prefix[2], boxes, step)
            state.steps.put(prefix, step)
        assert step is not None
        return step

    def _step(
        self,
        state: ImageState,
        points: Sequence[tuple[int, int]],
        labels: Sequence[bool],
        boxes: tuple[Box, ...],
        previous: Step | None,
    ) -> Step:
        """One more click, or the first prompts."""
        answer = self._answer(state, points, labels, boxes)
        rough = answer.distance <= 1.0
        (height, width), (rows, cols) = state.working_size, state.grid
        edge = Edge(state.guide, math.sqrt(height * width / (rows * cols)), self.method.band)
        known = answer.thresholds, stability(answer.distance)
        if previous is None:
            inside = None
            if boxes:
                inside = _inside([self._working_box(state, box) for box in boxes], height, width)
            return first_step(rough, points, labels, edge, inside, *known)
        own = answer.maps[-1]
        other = [int(own.levels[point]) for point, label in zip(points, labels, strict=True) if label != labels[-1]]
        click = NewClick(points[-1], labels[-1], own.levels, own.profile, other)
        return next_step(previous, rough, click, edge, self.method.kappa, *known)

    @staticmethod
    def _segmentation(state: ImageState, step: Step, boxes: Sequence[Box], clicked: bool) -> Segmentation:
        """The step's mask at the photograph's size."""
        height, width = state.size
        mask = step.settled.unpacked()
        if mask.shape == state.size:
            distance = np.where(mask, np.float32(0.0), np.float32(2.0))  # nothing is resized, so no slope is needed
        else:
            distance = distance_of(mask)
            mask = resize_distance(distance, height, width) <= 1.0
        if boxes and not clicked:
            mask &= _inside(boxes, height, width)
        return Segmentation(mask, distance, step.thresholds, step.score)

    def prompt_map(self, state: ImageState, click: Click) -> PromptMap:
        """M' and threshold profile of one click, which ``segment`` then finds in the memo.

        Raises:
            InvalidPrompt: The click lies outside the photograph.
        """
        Prompts((click,)).check_inside(state.size[1], state.size[0])
        return self._prompt_maps(state, [self._pixel(state, click)])[0]

    def least_area(self, state: ImageState) -> float:
        """Share of the image below which a segment is no candidate."""
        return self.method.least_cells / (state.grid[0] * state.grid[1])

    @staticmethod
    def _pixel(state: ImageState, click: Click) -> tuple[int, int]:
        """(x, y) of the photograph → (row, col) at working size: the one place where the order turns."""
        (height, width), (rows, cols) = state.size, state.working_size
        return (2 * click.y + 1) * rows // (2 * height), (2 * click.x + 1) * cols // (2 * width)

    def _prompt_maps(self, state: ImageState, points: Sequence[tuple[int, int]]) -> list[PromptMap]:
        """M' of each point; what the request needs stays, however many clicks it has."""
        found = {point: state.clicks.get(point) for point in points}
        missing = [point for point, own in found.items() if own is None]
        cell_maps = self._cell_maps(state, dict.fromkeys(self._cell(state, point) for point in missing))
        for point in missing:
            made = self._prompt_map(state, point, cell_maps[self._cell(state, point)])
            state.clicks.put(point, made, keep=len(found))
            found[point] = made
        return [own for point in points if (own := found[point]) is not None]

    def _prompt_map(self, state: ImageState, point: tuple[int, int], cell_map: NDArray[np.float32]) -> PromptMap:
        row, col = point
        full = state.upsample.apply(cell_map)
        flooded = flood_fill(full, row, col) if self.method.flood_fill else quantize(full, float(full[row, col]))
        return PromptMap(flooded.levels, flooded.step, profile(flooded.levels))

    def _cell_maps(self, state: ImageState, cells: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """M of each cell at the grid's size: several in one pass over the matrix where reading it takes the time."""
        found = {cell: state.cells.get(cell) for cell in cells}
        missing = [cell for cell, own in found.items() if own is None]
        together = self.method.batch or (1 if state.device.type == "cpu" else ACCELERATOR_BATCH)
        for first in range(0, len(missing), together):
            part = missing[first : first + together]
            for cell, own in zip(part, self._maps(state, part), strict=True):
                found[cell] = own
                state.cells.put(cell, own, keep=len(found))
        return {cell: own for cell, own in found.items() if own is not None}

    @staticmethod
    def _maps(state: ImageState, cells: Sequence[int]) -> NDArray[np.float32]:
        starts = torch.zeros(len(cells), state.grid[0] * state.grid[1], device=state.device)
        starts[range(len(cells)), list(cells)] = 1.0
        return state.relation.maps(starts).view(-1, *state.grid).cpu().numpy()

    @staticmethod
    def _cell(state: ImageState, point: tuple[int, int]) -> int:
        (rows, cols), (height, width) = state.working_size, state.grid
        return int((2 * point[0] + 1) * height // (2 * rows)) * width + (2 * point[1] + 1) * width // (2 * cols)

    def _threshold(
        self,
        index: int,
        maps: Sequence[PromptMap],
        points: Sequence[tuple[int, int]],
        labels: Sequence[bool],
        least_area: float,
    ) -> int:
        own, method = maps[index], self.method
        if method.fixed_threshold is not None:
            return max(1, int(method.fixed_threshold * int(own.levels.max())))
        at = [int(own.levels[point]) for point in points]
        same = [level for level, label in zip(at, labels, strict=True) if label == labels[index]]
        other = [level for level, label in zip(at, labels, strict=True) if label != labels[index]]
        return choose_threshold(
            own.profile, same, other, scores=method.scores, prior=method.prior, least_area=least_area
        )

    def _box_distance(
        self, state: ImageState, box: Box, points: Sequence[tuple[int, int]], labels: Sequence[bool]
    ) -> NDArray[np.float32]:
        """Distance of the box prompt at working size; infinite outside of the box."""
        if not isinstance(state.relation, MarkovRelation):
            raise ValueError("a box needs the Markov relation")
        cells = [self._cell(state, point) for point in points]
        small = box_distance(
            state.relation.transition.matrix,
            _cells_within(state, box, 1.0),
            _cells_within(state, box, INNER),
            positive=[cell for cell, label in zip(cells, labels, strict=True) if label],
            negative=[cell for cell, label in zip(cells, labels, strict=True) if not label],
        )
        full = state.upsample.apply(small.reshape(state.grid))
        full[~_inside([self._working_box(state, box)], *full.shape)] = np.inf
        return full

    def _working_box(self, state: ImageState, box: Box) -> Box:
        """The box in pixels at working size."""
        top, left = self._pixel(state, Click(box.x0, box.y0))
        bottom, right = self._pixel(state, Click(box.x1 - 1, box.y1 - 1))
        return Box(left, top, right + 1, bottom + 1)


def _reduce(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The photograph with its longest side at most ``longest``."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1.0:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def relation_of(attention: torch.Tensor, method: Method) -> Relation:
    """The matrix of the wanted method; may reuse the memory of ``attention``, float32 [n, n]."""
    if method.relation == "attention":
        return AttentionRelation(tempered(attention, ATTENTION_TEMPERATURE))
    if method.relation == "kl":
        return DivergenceRelation.of(tempered(attention, KL_TEMPERATURE))
    transition = transition_matrix(
        attention,
        temperature=method.temperature,
        tolerance=method.tolerance,
        max_sweeps=method.max_sweeps,
        doublings=method.doublings,
        half=method.half,
    )
    return MarkovRelation(transition, method.tau, method.max_iterations)


def _inside(boxes: Sequence[Box], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels of any box, bool [H, W]."""
    inside = np.zeros((height, width), np.bool_)
    for box in boxes:
        inside[box.y0 : box.y1, box.x0 : box.x1] = True
    return inside


def _cells_within(state: ImageState, box: Box, share: float) -> NDArray[np.bool_]:
    """Cells whose center lies in the middle ``share`` of the box, bool [n]; the box's own cell if there is none."""
    (height, width), (rows, cols) = state.size, state.grid
    y = np.abs((np.arange(rows) + 0.5) * height / rows - (box.y0 + box.y1) / 2) <= share * (box.y1 - box.y0) / 2
    x = np.abs((np.arange(cols) + 0.5) * width / cols - (box.x0 + box.x1) / 2) <= share * (box.x1 - box.x0) / 2
    if not (y.any() and x.any()):
        y[cell_of_pixels(height, rows)[(box.y0 + box.y1 - 1) // 2]] = True
        x[cell_of_pixels(width, cols)[(box.x0 + box.x1 - 1) // 2]] = True
    return np.outer(y, x).ravel()
