"""How much one more click may change (beyond the paper): an annotator prefers half a click more to one lost mask.

A click shows how large the error is that it is about: the circle of its radius (:mod:`click_radius`). The answer to
all clicks often changes far more than that. So it is taken whole if it stays within the first of three limits; else
the part of its change that is connected with the click, within the second; else the mask is edited by the click's own
segment, within the third.

The limits are circles of the click, and become tighter as the mask is trusted more: after the first answer a large
change may be what is needed, after several clicks it hardly ever is. What was measured is in the evaluation's README.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.places import Place, index_of

KAPPA = 10.0
"""No click changes more than this many times the area of its circle. At 6, every third object of GrabCut needs 2.4
clicks for 85 % instead of 1.8, as first masks that are too small grow more slowly."""

FREE = 0.25
"""Share of the mask's area that may change for other reasons than the circle's size, within ``KAPPA`` circles."""

REMOVED = 5.5
"""Circles that a background click may remove."""

REMOVED_WHOLE = 3.0
"""Circles up to which a background click removes all that the answer to all clicks removes, not only its part."""

EDITED = 5.0
"""Circles that the click's own segment may change."""

SECOND_REMOVED = 0.8
"""Share of the mask that a background click may remove as the second prompt: it is never about nearly all."""

DOUBT = 2.0
"""From the third prompt on, the fourth for foreground clicks, a change is limited to this many times the share of the
mask that is expected to be wrong: 1 - confidence."""


@dataclass(frozen=True)
class ClickLimits:
    """Most pixels that one more click may change, by what answers it.

    Attributes:
        whole: The answer to all clicks.
        part: The part of its change that is connected with the click.
        edit: The click's own segment.
    """

    whole: float
    part: float
    edit: float


def limits_of(
    circle: float, area: int, *, positive: bool, earlier: int, confidence: float, kappa: float = KAPPA
) -> ClickLimits:
    """The limits of a click.

    Args:
        circle: Pixels of the click's circle.
        area: Pixels of the mask before the click.
        positive: Whether the click is foreground.
        earlier: Number of prompts before it.
        confidence: Score of the mask before it, in [0, 1].
        kappa: Circles that no click exceeds.
    """
    doubt = max(FREE, DOUBT * (1.0 - confidence))
    if positive:
        circles, share = kappa, doubt if earlier > 2 else math.inf
    else:
        circles, share = REMOVED, doubt if earlier > 1 else SECOND_REMOVED
    part = min(kappa * circle, max(FREE * area, min(circles * circle, share * area)))
    whole = part if positive else min(part, max(FREE * area, REMOVED_WHOLE * circle))
    return ClickLimits(whole, part, min(part, EDITED * circle))


def connected_with(change: NDArray[np.bool_], place: Place) -> NDArray[np.bool_]:
    """The 4-connected parts of a change, bool [H, W], that hold the click or a pixel of the scribble."""
    _, labels = cv2.connectedComponents(change.view(np.uint8), connectivity=4)
    return np.isin(labels, labels[index_of(place)]) & change
