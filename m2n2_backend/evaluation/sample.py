"""Evaluation of one object: 20 simulated clicks, the IoU after each."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.evaluation.clicker import IGNORED, OBJECT, simulated_user
from m2n2_backend.evaluation.methods import StartedPhotograph
from m2n2_backend.evaluation.noc import MAX_CLICKS
from m2n2_backend.evaluation.protocol import ProtocolName
from m2n2_backend.prompts import Click


@dataclass(frozen=True)
class SampleRun:
    """What happened with one object.

    Attributes:
        ious: IoU after each click, always ``MAX_CLICKS`` values in [0, 1].
        clicks: All clicks in order; fewer than ``MAX_CLICKS`` if the mask became perfect.
        seconds: Time of the method for each click, without the simulated user's own.
    """

    ious: tuple[float, ...]
    clicks: tuple[Click, ...]
    seconds: tuple[float, ...]


def intersection_over_union(label: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """IoU of ``mask``, bool [H, W], and ``label``, uint8 [H, W] with an ``OBJECT`` pixel, without ignored pixels."""
    truth = label == OBJECT
    counted = mask & (label != IGNORED)
    return float(np.count_nonzero(truth & counted) / np.count_nonzero(truth | counted))


def evaluate_sample(
    session: StartedPhotograph,
    label: NDArray[np.uint8],
    max_clicks: int = MAX_CLICKS,
    *,
    protocol: ProtocolName = "ritm",
) -> SampleRun:
    """Click until 20 clicks are made or, by ``ritm``, the mask is perfect.

    A user who sees a perfect mask stops, so the IoU stays 1 for the remaining clicks; all thresholds have been
    reached by then. The released code's user continues.

    Args:
        session: The method's state for the sample's photograph.
        label: Ground truth, uint8 [H, W], with at least one ``OBJECT`` pixel.
        max_clicks: At least 1.
        protocol: Decides where the simulated user clicks.
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
