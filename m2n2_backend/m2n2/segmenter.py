"""Clicks → mask: the steps of the paper in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.attention import Backbone, aggregate
from m2n2_backend.m2n2.box import INNER, box_distance, cells_within, within_boxes
from m2n2_backend.m2n2.flood_fill import flood_fill, quantize
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.nearest import nearest_neighbor
from m2n2_backend.m2n2.postprocess import resize_distance, smooth_specks, stability
from m2n2_backend.m2n2.relations import MarkovRelation, relation_of
from m2n2_backend.m2n2.state import EncodedImage, ImageState, PromptMap
from m2n2_backend.m2n2.threshold import choose_threshold, profile
from m2n2_backend.m2n2.transition import Transition
from m2n2_backend.m2n2.upsample import JointBilateral, joint_bilateral
from m2n2_backend.overlay import draw_overlay
from m2n2_backend.prompts import Box, Click, Prompts

ACCELERATOR_BATCH = 8
"""Chains of new clicks that run together on an accelerator; on a CPU one after the other is faster."""


@dataclass(frozen=True)
class Segmentation:
    """One object.

    Attributes:
        mask: bool [H, W], the photograph's own size.
        distance: Distance to the foreground at working size, float32; object where ≤ 1.
        thresholds: λ_i of each click in order, in steps of the chain (the relation's unit for a baseline).
        score: Stability in [0, 1]: area of {distance ≤ 1/1.1} over area of {distance ≤ 1.1}. Near 1 the mask's edge
            is sharp in the map, near 0 a slightly other threshold gives another mask. No probability.
        prompts: What it answers.
    """

    mask: NDArray[np.bool_]
    distance: NDArray[np.float32]
    thresholds: tuple[float, ...]
    score: float
    prompts: Prompts

    def overlay(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Photograph, uint8 [H, W, 3] → a new image with object and prompts drawn over it, as ``imshow`` takes it."""
        return draw_overlay(rgb, self.mask, self.prompts.clicks, self.prompts.boxes)


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
        """Steps 3 to 7.

        Args:
            state: Of the same segmenter.
            clicks: In pixels of the photograph; each computes a map once per image.
            box: The object lies inside, or a part of it in each of several; needs ``relation="markov"``.

        Raises:
            InvalidPrompt: A prompt lies outside the photograph, or none is foreground.
        """
        height, width = state.size
        boxes = (box,) if isinstance(box, Box) else tuple(box or ())
        prompts = Prompts(tuple(clicks), boxes)
        prompts.validate(width, height)
        points = [self._pixel(state, click) for click in clicks]
        maps = self._prompt_maps(state, points)
        labels = [click.positive for click in clicks]
        least_area = self.least_area(state)
        thresholds = [self._threshold(index, maps, points, labels, least_area) for index in range(len(maps))]
        levels = [own.levels for own in maps]
        within = [self._box_distance(state, each, points, labels) for each in boxes]
        nearest_box = np.minimum.reduce(within) if within else None
        distance = nearest_neighbor(levels, thresholds, labels, nearest_box)
        if self.method.despeckle > 0:
            smooth_specks(distance, self.method.despeckle, points)
        mask = resize_distance(distance, height, width) <= 1.0
        if boxes:
            # Interpolation and filled holes may reach beyond the boxes; only clicks are allowed to.
            allowed = within_boxes(boxes, height, width)
            if any(labels):
                allowed |= resize_distance(nearest_neighbor(levels, thresholds, labels), height, width) <= 1.0
            mask &= allowed
        return Segmentation(
            mask=mask,
            distance=distance,
            thresholds=tuple(level * own.step for level, own in zip(thresholds, maps, strict=True)),
            score=stability(distance),
            prompts=prompts,
        )

    def prompt_map(self, state: ImageState, click: Click) -> PromptMap:
        """M' and threshold profile of one click, which ``segment`` then finds in the memo.

        Raises:
            InvalidPrompt: The click lies outside the photograph.
        """
        Prompts((click,)).check_inside(state.size[1], state.size[0])
        return self._prompt_maps(state, [self._pixel(state, click)])[0]

    @torch.inference_mode()
    def attention(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A, the weighted mean of the model's self-attentions (Eq. 3): float32 [n, n], rows sum to 1. Runs the model.

        Args:
            rgb: uint8 [H, W, 3].
        """
        return np.asarray(aggregate(self.backbone.features(rgb), self.backbone.device).cpu())

    def transition_matrix(self, state: ImageState) -> NDArray[np.float32]:
        """P (Eq. 5 and IPF): float32 [n, n], rows and columns sum to 1; cells go row by row.

        Raises:
            ValueError: The method is a baseline, which has none.
        """
        return np.asarray(_transition(state).matrix.cpu())

    @torch.inference_mode()
    def markov_map(self, state: ImageState, click: Click, *, upsampled: bool = True) -> NDArray[np.float32]:
        """M of a click (Eq. 6), in steps of the chain: float32 [H', W'] at working size, or [h, w] before the JBU.

        Raises:
            InvalidPrompt: The click lies outside the photograph.
        """
        Prompts((click,)).check_inside(state.size[1], state.size[0])
        cell = self._cell(state, self._pixel(state, click))
        small = self._cell_maps(state, [cell])[cell]
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
        cells = [self._cell(state, point) for point in points]
        small = box_distance(
            _transition(state).matrix,
            cells_within(box, state.size, state.grid),
            cells_within(box, state.size, state.grid, INNER),
            positive=[cell for cell, label in zip(cells, labels, strict=True) if label],
            negative=[cell for cell, label in zip(cells, labels, strict=True) if not label],
        )
        full = state.upsample.apply(small.reshape(state.grid))
        top, left = self._pixel(state, Click(box.x0, box.y0))
        bottom, right = self._pixel(state, Click(box.x1 - 1, box.y1 - 1))
        out = np.full_like(full, np.inf)
        out[top : bottom + 1, left : right + 1] = full[top : bottom + 1, left : right + 1]
        return out


def _transition(state: ImageState) -> Transition:
    if not isinstance(state.relation, MarkovRelation):
        raise ValueError("only the Markov relation has a transition matrix; a box needs the Markov relation too")
    return state.relation.transition


def _reduce(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The photograph with its longest side at most ``longest``."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1.0:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
