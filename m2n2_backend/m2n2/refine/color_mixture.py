"""The colors of one side of an edge as a mixture of Gaussians.

Its components are found by splitting, again and again, the one of largest spread across its principal axis (Orchard
and Bouman 1991; GrabCut, Rother et al. 2004, starts from it too): nothing is drawn at random, nothing iterates. A
histogram over place and color, smoothed in both, needed a click more on every third object of DAVIS (13.3 to 11.9).
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

COMPONENTS = 5
"""Gaussians of each side, as in GrabCut."""

CERTAIN = 10.0
"""Nats at which a color's evidence is cut off."""

_SAMPLES = 4000  # pixels of each side that the colors are fitted to
_LEAST = 10  # pixels of each side, or there is nothing to compare with
_NOISE = 1.0  # variance that rounding and compression alone give each channel


def evidence(
    rgb: NDArray[np.uint8],
    foreground: NDArray[np.bool_],
    background: NDArray[np.bool_],
    undecided: NDArray[np.bool_],
) -> NDArray[np.float64] | None:
    """How much more probable the undecided pixels' colors are among those of the foreground.

    Args:
        rgb: uint8 [h, w, 3], contiguous.
        foreground: Pixels whose colors stand for the foreground, bool [h, w].
        background: Pixels whose colors stand for the background, bool [h, w].
        undecided: The m pixels to judge, bool [h, w].

    Returns:
        Nats, float64 [m], in ±``CERTAIN``; None if a side has too few pixels to learn its colors from.
    """
    if min(np.count_nonzero(foreground), np.count_nonzero(background)) < _LEAST:
        return None
    ratios = log_ratios(
        fit_mixture(_thinned(rgb, foreground)), fit_mixture(_thinned(rgb, background)), rgb[undecided]
    )
    return np.clip(ratios, -CERTAIN, CERTAIN)


def fit_mixture(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Fit at most ``COMPONENTS`` Gaussians.

    Args:
        colors: uint8 [n, 3], n ≥ 1.

    Returns:
        float64 [k, 10], for each component: log of its share over the square root of its covariance's determinant,
        mean, and the inverse covariance (three diagonal entries, then twice 01, 02 and 12).
    """
    owner = np.zeros(len(colors), np.int8)
    counts, means, covariances = np.zeros(COMPONENTS), np.zeros((COMPONENTS, 3)), np.zeros((COMPONENTS, 3, 3))
    _gather(colors, owner, 0, counts, means, covariances)
    known = 1
    while known < COMPONENTS:
        spreads, axes = np.linalg.eigh(covariances[:known])
        widest = int(spreads[:, 2].argmax())
        if spreads[widest, 2] <= 2.0 * _NOISE:
            break
        _split(colors, owner, widest, known, means[widest], axes[widest, :, 2])
        for part in (widest, known):
            _gather(colors, owner, part, counts, means, covariances)
        known += 1
    inverse = np.linalg.inv(covariances[:known])
    constant = np.log(counts[:known] / len(colors)) - 0.5 * np.log(np.linalg.det(covariances[:known]))
    crosswise = 2.0 * inverse[:, (0, 0, 1), (1, 2, 2)]
    return np.concatenate([constant[:, None], means[:known], inverse[:, (0, 1, 2), (0, 1, 2)], crosswise], axis=1)


def log_ratios(
    foreground: NDArray[np.float64], background: NDArray[np.float64], colors: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Log of how much more probable each color is under the first mixture, float64 [n].

    Args:
        foreground: Mixture as :func:`fit_mixture` returns it.
        background: The other side's mixture.
        colors: uint8 [n, 3].
    """
    return np.asarray(_log_ratios(foreground, background, colors))


def _thinned(rgb: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Colors of the pixels, evenly thinned to at most about ``_SAMPLES``, uint8 [n, 3]."""
    places = np.flatnonzero(where)
    return rgb.reshape(-1, 3)[places[:: max(1, places.size // _SAMPLES)]]


@njit(cache=True, nogil=True)
def _split(colors, owner, part, other, mean, axis):
    """Give the other part what lies beyond the part's mean along the axis."""
    for i in range(colors.shape[0]):
        if owner[i] == part:
            along = 0.0
            for c in range(3):
                along += (colors[i, c] - mean[c]) * axis[c]
            if along > 0.0:
                owner[i] = other


@njit(cache=True, nogil=True)
def _gather(colors, owner, part, counts, means, covariances):
    """Number, mean, and covariance with the noise of a part's colors."""
    count, total = 0, np.zeros(3)
    for i in range(colors.shape[0]):
        if owner[i] == part:
            count += 1
            for c in range(3):
                total[c] += colors[i, c]
    mean = total / count
    squares = np.zeros((3, 3))
    for i in range(colors.shape[0]):
        if owner[i] == part:
            for c in range(3):
                for d in range(c + 1):
                    squares[c, d] += (colors[i, c] - mean[c]) * (colors[i, d] - mean[d])
    counts[part], means[part] = count, mean
    for c in range(3):
        for d in range(c + 1):
            covariances[part, c, d] = covariances[part, d, c] = squares[c, d] / count
        covariances[part, c, c] += _NOISE


@njit(parallel=True, cache=True, nogil=True)
def _log_ratios(foreground, background, colors):
    out = np.empty(colors.shape[0])
    for i in prange(colors.shape[0]):
        out[i] = _log_density(foreground, colors[i]) - _log_density(background, colors[i])
    return out


@njit(inline="always")
def _log_density(mixture, color):
    largest, total = -np.inf, 0.0
    for k in range(mixture.shape[0]):
        own = mixture[k]
        r, g, b = color[0] - own[1], color[1] - own[2], color[2] - own[3]
        square = r * r * own[4] + g * g * own[5] + b * b * own[6]
        term = own[0] - 0.5 * (square + r * g * own[7] + r * b * own[8] + g * b * own[9])
        if term > largest:
            total = 1.0 + total * np.exp(largest - term)
            largest = term
        elif term > largest - 20.0:
            total += np.exp(term - largest)
    return largest + np.log(total)
