"""The method written as the paper defines it, without regard to speed.

Every step is written from the paper's equations alone and shares no code with ``m2n2/``: the tests compare the two,
and ``bench`` measures how much faster ``m2n2/`` is. Only the matrix is kept from click to click. Boxes are left out,
as the paper does not define them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.attention import AttentionFeatures
from m2n2_backend.prompts import Click

TEMPERATURE = 0.65
REACHED = 0.3
MAX_ITERATIONS = 1000
SIGMA_SPATIAL = 1.0
SIGMA_RANGE = 0.1
PRIOR = 0.4

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PlainState:
    """What depends only on the photograph.

    Attributes:
        rgb: The photograph, uint8 [H, W, 3].
        grid: (h, w) of the attention.
        matrix: Doubly stochastic transitions, [n, n].
    """

    rgb: NDArray[np.uint8]
    grid: tuple[int, int]
    matrix: Floats


@dataclass(frozen=True)
class PlainSegmentation:
    """Every stage of one object, in the order of the clicks.

    Attributes:
        mask: bool [H, W].
        maps: M_i, each [H, W], in steps of the chain.
        flooded: M'_i, each [H, W], in steps of the chain.
        thresholds: λ_i, in steps of the chain.
    """

    mask: NDArray[np.bool_]
    maps: tuple[Floats, ...]
    flooded: tuple[Floats, ...]
    thresholds: tuple[float, ...]


def encode(
    rgb: NDArray[np.uint8],
    features: AttentionFeatures,
    *,
    tolerance: float = 1e-4,
    max_sweeps: int = 2000,
    dtype: type[np.floating[Any]] = np.float64,
) -> PlainState:
    """Attention, temperature and IPF.

    Args:
        rgb: uint8 [H, W, 3].
        features: Queries and keys of the photograph.
        tolerance: IPF ends once no row sum is further than this from 1.
        max_sweeps: IPF ends after this number of sweeps in any case.
        dtype: Precision of the matrix and of all that follows.
    """
    attention = attention_matrix(features, dtype)
    matrix = sinkhorn(sharpen(attention, TEMPERATURE), tolerance=tolerance, max_sweeps=max_sweeps)
    return PlainState(rgb, (features.height, features.width), matrix)


def segment(
    state: PlainState,
    clicks: Sequence[Click],
    *,
    radius: int = 2,
    samples: int = 0,
    candidates: int | None = None,
) -> PlainSegmentation:
    """The mask of clicks in pixels of the photograph; all maps are computed again.

    ``radius`` and ``samples`` are those of :func:`joint_bilateral`; at most ``candidates`` thresholds are tried, or
    all if it is None.
    """
    height, width = state.rgb.shape[:2]
    maps, flooded = [], []
    for click in clicks:
        row = (click.y + 0.5) * state.grid[0] // height
        col = (click.x + 0.5) * state.grid[1] // width
        small = markov_map(state.matrix, int(row * state.grid[1] + col)).reshape(state.grid)
        maps.append(joint_bilateral(small, state.rgb, radius=radius, samples=samples))
        flooded.append(flood(maps[-1], click.y, click.x))
    labels = [click.positive for click in clicks]
    thresholds = []
    for own, label in zip(flooded, labels, strict=True):
        same = [float(own[click.y, click.x]) for click in clicks if click.positive == label]
        other = [float(own[click.y, click.x]) for click in clicks if click.positive != label]
        thresholds.append(best_threshold(own, candidate_thresholds(own, candidates), same, other))
    return PlainSegmentation(nearest(flooded, thresholds, labels), tuple(maps), tuple(flooded), tuple(thresholds))


def attention_matrix(features: AttentionFeatures, dtype: type[np.floating[Any]] = np.float64) -> Floats:
    """Eq. 3, one row of one head at a time."""
    matrix = np.zeros((features.cells, features.cells), dtype)
    for block in features.blocks:
        queries = block.queries.float().cpu().numpy().astype(dtype)  # [heads, n, d]
        keys = block.keys.float().cpu().numpy().astype(dtype)
        for head in range(len(queries)):
            for row in range(features.cells):
                logits = keys[head] @ queries[head, row] * block.scale
                exponentials = np.exp(logits - logits.max())
                matrix[row] += block.weight / len(queries) * exponentials / exponentials.sum()
    return matrix


def sharpen(attention: Floats, temperature: float) -> Floats:
    """Eq. 5: softmax of log(A)/T over each row."""
    with np.errstate(divide="ignore"):  # attention 0 stays 0
        logits = np.log(attention) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def sinkhorn(matrix: Floats, *, tolerance: float, max_sweeps: int) -> Floats:
    """IPF on the matrix itself: columns, then rows, until the row sums are close enough to 1."""
    for _ in range(max_sweeps):
        matrix = matrix / matrix.sum(axis=0, keepdims=True)
        rows = matrix.sum(axis=1, keepdims=True)
        if np.abs(rows - 1).max() <= tolerance:
            break
        matrix = matrix / rows
    return matrix


def markov_map(matrix: Floats, start: int, *, tau: float = REACHED, max_iterations: int = MAX_ITERATIONS) -> Floats:
    """Eq. 4 and 6, step by step until every cell has been reached, [n] in steps of the chain."""
    cells = len(matrix)
    distribution: Floats = np.zeros(cells, matrix.dtype)
    distribution[start] = 1.0
    result = np.full(cells, float(max_iterations), matrix.dtype)
    result[start] = 0.0
    reached = np.arange(cells) == start
    before = distribution
    for step in range(1, max_iterations + 1):
        distribution = distribution @ matrix
        ratio = distribution / distribution.max()
        new = (ratio > tau) & ~reached
        result[new] = step - 1 + (tau - before[new]) / (ratio[new] - before[new])
        reached |= new
        before = ratio
        if reached.all():
            break
    return result


def joint_bilateral(small: Floats, rgb: NDArray[np.uint8], *, radius: int = 2, samples: int = 0) -> Floats:
    """The weighted mean of the cells around each pixel, one guidance pixel of every cell at a time.

    Args:
        small: [h, w].
        rgb: uint8 [H, W, 3].
        radius: Guidance that is further away in x or y, in cells, is not read.
        samples: Guidance pixels per side of a cell, evenly spread; 0 reads every pixel.
    """
    image = rgb.transpose(2, 0, 1).astype(small.dtype, order="C") / 255.0  # [3, H, W]
    total: Floats = np.zeros(rgb.shape[:2], small.dtype)
    weights = np.zeros_like(total)
    across = list(_guidance(rgb.shape[1], small.shape[1], radius, samples, small.dtype))
    for row, row_cell, row_weight in _guidance(rgb.shape[0], small.shape[0], radius, samples, small.dtype):
        band, cells = image[:, row], small[row_cell]
        for col, col_cell, col_weight in across:
            difference = np.square(band[:, :, col] - image).sum(axis=0)
            # Sparse guidance may have nothing like the pixel; the floor keeps the weights above 0.
            likeness = np.maximum(np.exp(-difference / (2 * SIGMA_RANGE**2)), np.exp(-20.0))
            weight = row_weight[:, None] * col_weight[None, :] * likeness
            total += weight * cells[:, col_cell]
            weights += weight
    return np.asarray(total / weights)


def _guidance(
    pixels: int, cells: int, radius: int, samples: int, dtype: np.dtype[np.floating[Any]]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], Floats]]:
    """For every pixel of one axis: a guidance pixel, its cell and its spatial weight (0 beyond the window)."""
    index = np.arange(pixels)
    cell = np.floor((index + 0.5) * cells / pixels).astype(int)
    members = [np.flatnonzero(cell == number) for number in range(cells)]
    for offset in range(-radius, radius + 1):
        target = cell + offset
        valid = (target >= 0) & (target < cells)
        target = np.clip(target, 0, cells - 1)
        size = np.array([len(inside) for inside in members])[target]
        count = size if samples == 0 else np.minimum(samples, size)
        first = np.array([inside[0] if len(inside) else 0 for inside in members])[target]
        for number in range(int(count.max())):
            position = first + (2 * number + 1) * size // np.maximum(2 * count, 1)
            position = np.minimum(position, pixels - 1)
            distance = (position - index) * cells / pixels
            seen = valid & (number < count) & (np.abs(distance) <= radius)
            weight = np.where(seen, np.exp(-(distance**2) / (2 * SIGMA_SPATIAL**2)), 0.0)
            if seen.any():
                yield position, target, (weight * size / np.maximum(count, 1)).astype(dtype)


def flood(markov: Floats, row: int, col: int) -> Floats:
    """Algorithm 1, exactly, as the reconstruction by erosion of |M - M[x]| from x, float64 [H, W].

    Raises:
        ModuleNotFoundError: scikit-image is missing.
    """
    try:
        from skimage.morphology import reconstruction
    except ModuleNotFoundError as error:
        message = "the reference's flood fill needs scikit-image: pip install '.[eval]' in a checkout"
        raise ModuleNotFoundError(message) from error
    cost = np.abs(markov - markov[row, col]).astype(np.float64)
    marker = np.full_like(cost, cost.max())
    marker[row, col] = 0.0
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    return np.asarray(reconstruction(marker, cost, method="erosion", footprint=cross))


def candidate_thresholds(flooded: Floats, most: int | None = None) -> Floats:
    """The levels of M', ascending and > 0. Between two of them the segment does not change.

    The click's own level 0 is replaced with half of the next level, so that M'/λ is defined.

    Args:
        flooded: M', [H, W].
        most: Take this number of evenly spaced quantiles instead of all levels. One mask for each level of a large
            image takes minutes, so benchmarks limit the number.
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
    """Eq. 8: the first candidate with the largest score.

    If all scores are 0, it is the last candidate that keeps ``other`` out and the segment below the prior.
    """
    gradient = sobel_magnitude(flooded)
    scores = np.array([score(flooded, gradient, level, same, other, prior=prior) for level in candidates])
    if scores.max() > 0:
        return float(candidates[scores.argmax()])
    area = np.array([(flooded <= level).mean() for level in candidates])
    keeping = candidates[(candidates < min(other, default=0.0)) & (area < prior)]
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
    """Length of the Sobel gradient, with the image's border repeated outwards."""
    padded = np.pad(flooded.astype(np.float64), 1, mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:, :] - padded[:-2, :]
    return np.hypot(across[:-2] + 2 * across[1:-1] + across[2:], down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:])


def nearest(flooded: Sequence[Floats], thresholds: Sequence[float], positive: Sequence[bool]) -> NDArray[np.bool_]:
    """Eq. 10 and 11: the label of the nearest click where it is within 1, else background; so are ties."""
    order = np.argsort(positive, kind="stable")  # argmin takes the first of equals
    distances = np.stack([flooded[index] / thresholds[index] for index in order])
    foreground = np.asarray(positive)[order][distances.argmin(axis=0)]
    return np.asarray(foreground & (distances.min(axis=0) <= 1.0))
