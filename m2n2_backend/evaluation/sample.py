"""Evaluation of one object: 20 simulated clicks, the IoU after each."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.evaluation.clicker import IGNORED, OBJECT, simulated_user
from m2n2_backend.evaluation.methods import PhotographSession
from m2n2_backend.evaluation.noc import MAX_CLICKS
from m2n2_backend.evaluation.protocol import ProtocolName
from m2n2_backend.prompts import Click


@dataclass(frozen=True)
class SampleRun:
    """What happened with one object.

    Attributes:
        ious: After each click, always ``MAX_CLICKS`` values in [0, 1].
        clicks: In order; fewer than ``MAX_CLICKS`` if the mask became perfect.
        seconds: Time the method took per click; the clicker's own is not in it.
    """

    ious: tuple[float, ...]
    clicks: tuple[Click, ...]
    seconds: tuple[float, ...]


def intersection_over_union(label: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """IoU over the pixels that are not ignored.

    Args:
        label: Ground truth, uint8 [H, W], with at least one ``OBJECT`` pixel.
        mask: bool [H, W].
    """
    truth = label == OBJECT
    counted = mask & (label != IGNORED)
    return float(np.count_nonzero(truth & counted) / np.count_nonzero(truth | counted))


def evaluate_sample(
    session: PhotographSession,
    label: NDArray[np.uint8],
    max_clicks: int = MAX_CLICKS,
    *,
    protocol: ProtocolName = "ritm",
) -> SampleRun:
    """Click until 20 clicks are made or, by ``ritm``, the mask is perfect.

    A user who sees a perfect mask stops, so the IoU stays 1 for the clicks that are left; all thresholds have been
    reached by then. The released code's user goes on.

    Args:
        session: Of the sample's photograph.
        label: Ground truth, uint8 [H, W], with at least one ``OBJECT`` pixel.
        max_clicks: At least 1.
        protocol: Of the simulated user.
    """
    clicker = simulated_user(protocol, label)
    mask = np.zeros(label.shape, np.bool_)
    clicks: list[Click] = []
    ious: list[float] = []
    seconds: list[float] = []
    while len(clicks) < max_clicks and (protocol == "released" or not ious or ious[-1] < 1.0):
        clicks.append(clicker.next_click(mask))
        began = time.perf_counter()
        mask = session.mask(clicks)
        seconds.append(time.perf_counter() - began)
        ious.append(intersection_over_union(label, mask))
    ious.extend([1.0] * (max_clicks - len(ious)))
    return SampleRun(tuple(ious), tuple(clicks), tuple(seconds))
