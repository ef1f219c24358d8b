"""The figures of a whole data set, the number of clicks (NoC) first (Sec. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLICKS = 20
"""Clicks per object; also the count of an object that never reaches the threshold."""

COLLAPSE = 0.2
"""Loss of IoU from one click to the next that counts as the mask's collapse."""

QUALITIES = {"85": 0.85, "90": 0.90, "95": 0.95}
"""IoUs that count as good, by the ending of their figures' names."""

REPORTED_CLICKS = (1, 3, 5, 10, 20)
"""Clicks after which the mean IoU is reported."""


def clicks_to_reach(ious: Sequence[float], quality: float) -> int | None:
    """Number of clicks until the IoU, given after each click, is first ≥ ``quality``; None if it never is."""
    return next((count for count, iou in enumerate(ious, start=1) if iou >= quality), None)


def clicks_per_sample(ious: Mapping[str, Sequence[float]], quality: float) -> NDArray[np.int64]:
    """Number of clicks of every sample, in the order of the mapping, int64 [n]; 20 where never reached."""
    counts = [clicks_to_reach(values, quality) or MAX_CLICKS for values in ious.values()]
    return np.asarray(counts, np.int64)


def mean_iou_per_click(ious: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """Mean over the samples after each click, float64 [20]."""
    return np.asarray(np.asarray(list(ious.values()), np.float64).mean(axis=0))


def collapses_per_sample(ious: Mapping[str, Sequence[float]]) -> float:
    """Clicks per sample that lower the IoU by more than ``COLLAPSE``."""
    curves = np.asarray(list(ious.values()), np.float64)
    return float(np.count_nonzero(curves[:, :-1] - curves[:, 1:] > COLLAPSE) / len(curves))


def summary(ious: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """All figures of one run, for all thresholds from the same clicks.

    Args:
        ious: 20 values in [0, 1] for each sample; at least one sample.

    Returns:
        ``n``, ``noc85``, ``noc90``, ``not_reached_90`` (samples), ``noc95``, ``share_not_reached`` (by quality),
        ``collapses`` (per sample), ``iou_at`` and ``iou_per_click`` (means), as in the JSON.
    """
    curve = mean_iou_per_click(ious)
    noc = {name: float(clicks_per_sample(ious, quality).mean()) for name, quality in QUALITIES.items()}
    never = {
        name: sum(clicks_to_reach(values, quality) is None for values in ious.values())
        for name, quality in QUALITIES.items()
    }
    return {
        "n": len(ious),
        "noc85": noc["85"],
        "noc90": noc["90"],
        "not_reached_90": never["90"],
        "noc95": noc["95"],
        "share_not_reached": {name: count / len(ious) for name, count in never.items()},
        "collapses": collapses_per_sample(ious),
        "iou_at": {str(count): float(curve[count - 1]) for count in REPORTED_CLICKS},
        "iou_per_click": curve.tolist(),
    }
