"""Confidence in a mask: an estimate of its IoU from what a method sees without knowing the object (beyond the paper).

Attention and color agree more in good masks, a good first answer has one threshold with clearly the best edges, and
the last click changed little and was about a small error. How close the estimates come is in the evaluation's README.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.threshold import PRIOR, Profile

AMBIGUITY = 0.56
"""Share of a first answer's confidence that is lost where another segment has edges as good as the chosen one's."""

APART = 1.5
"""A segment is another one if its area differs by more than this factor."""

BOXED = 0.95
"""Confidence in the answer to boxes alone is at most this share of the agreement between attention and color."""

CHANGE = 0.5
"""Exponent of the IoU with the mask before the last click."""

MISSED = 0.29
"""Share of the confidence that is lost where the last click was about an error as large as the object."""


@dataclass(frozen=True)
class Calibration:
    """What differs between backbones, fitted on every object of GrabCut 50 and DAVIS 69.

    Attributes:
        first: Confidence in a first answer whose edge color confirms and whose threshold is clear.
        agreement: Exponent of the IoU between the masks before and after color: the wider the band in which color
            decides, the less a difference means.
    """

    first: float = 1.16
    agreement: float = 0.8


def first_confidence(
    rough: NDArray[np.bool_], settled: NDArray[np.bool_], ambiguity: float | None, calibration: Calibration
) -> float:
    """Confidence in a first answer, in [0, 1]; an empty mask is certainly wrong: 0.

    Args:
        rough: The mask before color, bool [H, W].
        settled: The mask, bool [H, W].
        ambiguity: See :func:`ambiguity_of`; None for boxes alone, which have no threshold.
    """
    if not settled.any():
        return 0.0
    if ambiguity is None:
        share = min(calibration.first, BOXED)
    else:
        share = calibration.first * (1.0 - AMBIGUITY * min(ambiguity, 1.0))
    return min(1.0, share * iou(rough, settled))


def next_confidence(
    rough: NDArray[np.bool_],
    settled: NDArray[np.bool_],
    seen: NDArray[np.bool_],
    missed: float,
    calibration: Calibration,
) -> float:
    """Confidence in a mask after one more click that did not agree with it, in [0, 1]; 0 for an empty mask.

    Args:
        rough: The mask before color, bool [H, W].
        settled: The mask, bool [H, W].
        seen: The mask before the click, bool [H, W].
        missed: The click's circle as a share of the mask before it, the circle included where it was missing.
    """
    if not settled.any():
        return 0.0
    agreement: float = iou(rough, settled) ** calibration.agreement
    change: float = iou(seen, settled) ** CHANGE
    return agreement * change * (1.0 - MISSED * min(missed, 1.0))


def ambiguity_of(own: Profile, level: int, least_area: float) -> float:
    """The best edge score of another segment as a share of the chosen one's, in [0, ∞).

    Args:
        own: Scores of all thresholds of the click.
        level: The chosen threshold, from 0 to 65535.
        least_area: Share of the image that another segment needs.
    """
    chosen = float(own.area[level])
    far = (own.area > APART * chosen) | (own.area < chosen / APART)
    others = own.edge[far & (own.area < PRIOR) & (own.area > least_area)]
    edge = float(own.edge[level])
    return float(others.max(initial=0.0)) / edge if edge > 0.0 else 1.0


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks, 1 if both are empty."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 1.0
