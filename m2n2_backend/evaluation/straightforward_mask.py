"""From the Markov map to the mask, written as the definitions read: the second half of ``straightforward``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRIOR = 0.4

Floats = NDArray[np.floating[Any]]


def flood(markov: Floats, row: int, col: int) -> Floats:
    """Algorithm 1 as the reconstruction by erosion of |M - M[x]| from x; exact.

    Raises:
        ModuleNotFoundError: scikit-image is missing.
    """
    try:
        from skimage.morphology import reconstruction
    except ModuleNotFoundError as error:
        message = "the straightforward flood fill needs scikit-image: pip install 'm2n2-backend[eval]'"
        raise ModuleNotFoundError(message) from error
    cost = np.abs(markov - markov[row, col]).astype(np.float64)
    marker = np.full_like(cost, cost.max())
    marker[row, col] = 0.0
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    return np.asarray(reconstruction(marker, cost, method="erosion", footprint=cross))


def candidate_thresholds(flooded: Floats, most: int | None = None) -> Floats:
    """The levels present in M', ascending and > 0: between two of them the segment does not change.

    The level 0 of the prompt itself stands as half of the next one, so that M'/λ is defined.

    Args:
        flooded: M', [H, W].
        most: Evenly spaced quantiles of the levels instead of all of them. One mask for each of the levels of a
            large image takes minutes, so a benchmark says how many it takes.
    """
    levels = np.unique(flooded)
    if len(levels) == 1:
        return np.ones(1)
    levels[0] = levels[1] / 2
    if most is not None and len(levels) > most:
        levels = levels[np.linspace(0, len(levels) - 1, most).round().astype(int)]
    return levels


def best_threshold(
    flooded: Floats, candidates: Floats, same: Sequence[float], other: Sequence[float], *, prior: float = PRIOR
) -> float:
    """Eq. 8: the first candidate with the largest score; where all are 0, the last that keeps ``other`` out."""
    gradient = sobel_magnitude(flooded)
    scores = np.array([score(flooded, gradient, level, same, other, prior=prior) for level in candidates])
    if scores.max() > 0:
        return float(candidates[scores.argmax()])
    keeping = candidates[candidates < min(other, default=0.0)]
    return float(keeping[-1] if len(keeping) else candidates[0])


def score(
    flooded: Floats, gradient: Floats, level: float, same: Sequence[float], other: Sequence[float], *, prior: float
) -> float:
    """Eq. 9 for one threshold: prior · edge · pos · neg of the segment {M' ≤ λ}."""
    inside = flooded <= level
    if inside.mean() >= prior or any(value <= level for value in other):
        return 0.0
    surrounded = np.pad(inside, 1, mode="edge")
    inner = surrounded[:-2, 1:-1] & surrounded[2:, 1:-1] & surrounded[1:-1, :-2] & surrounded[1:-1, 2:]
    boundary = inside & ~inner
    edge = float(gradient[boundary].mean()) if boundary.any() else 0.0
    return edge * sum(value <= level for value in same) / len(same)


def sobel_magnitude(flooded: Floats) -> Floats:
    """Length of the Sobel gradient, the image's border repeated outwards."""
    padded = np.pad(flooded.astype(np.float64), 1, mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:, :] - padded[:-2, :]
    return np.hypot(across[:-2] + 2 * across[1:-1] + across[2:], down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:])


def nearest(flooded: Sequence[Floats], thresholds: Sequence[float], positive: Sequence[bool]) -> NDArray[np.bool_]:
    """Eq. 10 and 11: the label of the nearest prompt where it is within 1; ties go to the background."""
    order = np.argsort(positive, kind="stable")  # argmin takes the first of equals
    distances = np.stack([flooded[index] / thresholds[index] for index in order])
    foreground = np.asarray(positive)[order][distances.argmin(axis=0)]
    return np.asarray(foreground & (distances.min(axis=0) <= 1.0))
