"""The answer to a set of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.images import rgb_of
from m2n2_backend.m2n2.box import inner_parts, within_boxes
from m2n2_backend.m2n2.postprocess import distance_of, object_at, without_specks
from m2n2_backend.m2n2.refine.steps import Refinement
from m2n2_backend.m2n2.views.looks import Choice
from m2n2_backend.overlay import draw_overlay
from m2n2_backend.prompts import Click, Prompts, Scribble


@dataclass(frozen=True)
class Segmentation:
    """One object.

    Attributes:
        mask: bool [H, W], the photograph's own size.
        distance: Distance to the foreground at working size, float32; object where ≤ 1. That of a refined mask is
            made from the mask, and has a slope at the edge only if the mask was resized.
        thresholds: λ_i of each click in order, in steps of the chain (the relation's unit for a baseline).
        score: Confidence in the mask, in [0, 1]: close to its expected IoU, see ``refine.confidence``. Without
            refining, the stability: area of {distance ≤ 1/1.1} over area of {distance ≤ 1.1}.
        prompts: The prompts that it answers.
        choice: The view in which the mask was computed, and why; None if views were not thought of. The mask is empty
            outside of it, ``distance`` is the view's, and a click outside of it has the threshold 0.
    """

    mask: NDArray[np.bool_]
    distance: NDArray[np.float32]
    thresholds: tuple[float, ...]
    score: float
    prompts: Prompts
    choice: Choice | None = None

    def overlay(self, picture: Any) -> NDArray[np.uint8]:
        """The photograph that was encoded → a new image, uint8 [H, W, 3], with object and prompts drawn over it."""
        return draw_overlay(rgb_of(picture), self.mask, self.prompts.clicks, self.prompts.boxes)


def refined_segmentation(
    size: tuple[int, int], step: Refinement, prompts: Prompts, specks: float = 0.0
) -> Segmentation:
    """A refined mask at the photograph's size (H, W).

    A thin part can break into pieces when the mask is resized, and a box can cut some off. Those of less than
    ``specks``, a share of the photograph, are removed, but not clicked ones.

    Details smaller than a pixel of the working size are not lost: the pixel of each click has its label, and a thin
    box has its inner part. A box of which background clicks have left nothing has its inner part too, without their
    pixels, and the score 0.
    """
    mask = step.settled.unpacked()
    if mask.shape == size:
        distance = np.where(mask, np.float32(0.0), np.float32(2.0))  # nothing is resized, so no slope is needed
    else:
        distance = distance_of(mask)
        mask = object_at(distance, size)
    is_boxed = not any(click.positive for click in prompts.clicks)
    if is_boxed:
        mask &= within_boxes(prompts.boxes, size, size)
    _label_clicks(mask, prompts)
    if is_boxed or step.settled.shape != size:
        mask = without_specks(mask, specks, _clicked(prompts, size))
    if not mask.any():
        mask = inner_of(prompts, size)
    score = step.score if mask.any() else 0.0
    return Segmentation(mask, distance, step.thresholds, score, prompts)


def inner_of(prompts: Prompts, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The answer if nothing else is left: the boxes' inner parts, or the boxes, without the background prompts.

    Returns:
        bool [H, W]; empty if there are no boxes, or background prompts on all of their pixels.
    """
    mask: NDArray[np.bool_] = np.zeros(size, np.bool_)
    for parts in (inner_parts, within_boxes):
        if prompts.boxes and not mask.any():
            mask = parts(prompts.boxes, size, size)
            for stroke in prompts.clicks:
                if isinstance(stroke, Scribble) and not stroke.positive:
                    mask &= ~stroke.mask(size, size)
            _label_clicks(mask, prompts)
    return mask


def _clicked(prompts: Prompts, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of all clicks and scribbles, bool [H, W]."""
    pixels: NDArray[np.bool_] = np.zeros(size, np.bool_)
    for click in prompts.clicks:
        if isinstance(click, Click):
            pixels[click.y, click.x] = True
        else:
            pixels |= click.mask(size, size)
    return pixels


def _label_clicks(mask: NDArray[np.bool_], prompts: Prompts) -> None:
    """Give the pixel of each click its label, in place."""
    for click in prompts.clicks:
        if isinstance(click, Click):
            mask[click.y, click.x] = click.positive
