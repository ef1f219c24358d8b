"""A row of panels that shows what the click's radius and color did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from m2n2_backend.evaluation.report.plots import draw_image
from m2n2_backend.m2n2.refine.steps import Bound
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.overlay import NEGATIVE, POSITIVE, at_size, draw_overlay
from m2n2_backend.prompts import Click, Prompts

CIRCLE = (255, 196, 0)
"""RGB of the click's circle."""


def draw_refined(
    panels: Sequence[Axes], segmenter: Segmenter, state: ImageState, rgb: NDArray[np.uint8], prompts: Prompts
) -> None:
    """Show for the last click the mask before it, the attention's answer, what was taken of it, and color's part.

    Args:
        panels: Four panels.
        segmenter: A segmenter whose method refines.
        state: The encoded photograph.
        rgb: The photograph, uint8 [H, W, 3].
        prompts: All prompts up to the click that is shown.
    """
    clicks, boxes = prompts.clicks, prompts.boxes
    size = (rgb.shape[0], rgb.shape[1])
    step = segmenter.refined_step(state, prompts)
    paper = Segmenter(segmenter.backbone, replace(segmenter.method, refine=False)).segment(state, clicks, boxes).mask
    rough, settled = (at_size(mask.unpacked(), size) for mask in (step.rough, step.settled))
    if step.bound is None:
        draw_image(
            panels[0], draw_overlay(rgb, np.zeros(size, np.bool_), clicks, boxes), "no mask before these clicks"
        )
        added, removed = rough & ~paper, paper & ~rough
        cut = (added | removed).any()
        title = (
            f"the whole object cut: {_exchange(added, removed)}" if cut else "the attention's answer, taken as it is"
        )
    else:
        before = segmenter.segment(state, clicks[:-1], boxes).mask
        picture = draw_overlay(rgb, before, clicks, boxes)
        radius = step.bound.radius * size[1] / state.working_size[1]
        line = max(1, round(max(size) / 320))
        if isinstance(last := clicks[-1], Click):
            cv2.circle(picture, (last.x, last.y), max(1, round(radius)), CIRCLE, line, cv2.LINE_AA)
        draw_image(panels[0], picture, f"the mask before, radius {step.bound.radius:.0f} px")
        title = _title(step.bound)
    draw_image(panels[1], draw_overlay(rgb, paper, clicks, boxes), "the attention alone, for all clicks")
    draw_image(panels[2], draw_overlay(rgb, rough, clicks, boxes), title)
    gained, lost = settled & ~rough, rough & ~settled
    title = f"color at the edge: {_exchange(gained, lost)}"
    draw_image(panels[3], _changes(draw_overlay(rgb, settled, ()), gained, lost), title)


def _title(bound: Bound) -> str:
    """How much of the attention's answer was taken."""
    if bound.radius == 0.0:
        return "the click agrees with the mask: kept"
    if bound.edits:
        return f"{bound.changed:,} px would change, more than {bound.most:,.0f}: only around the click"
    return f"{bound.changed:,} px change, no more than {bound.most:,.0f}: taken"


def _exchange(gained: NDArray[np.bool_], lost: NDArray[np.bool_]) -> str:
    return f"{np.count_nonzero(gained):,} px gained, {np.count_nonzero(lost):,} lost"


def _changes(picture: NDArray[np.uint8], gained: NDArray[np.bool_], lost: NDArray[np.bool_]) -> NDArray[np.uint8]:
    picture[gained], picture[lost] = POSITIVE, NEGATIVE
    return picture
