"""Training-free classics that people would otherwise use: GrabCut, random walker, geodesic distance.

All three see the same clicks as M2N2. They need background as well as foreground, and the first click gives only one
of the two. So the image's outermost pixels are background, for GrabCut and the random walker only until there is a
negative click. The constants are those that served each method best on samples of GrabCut and DAVIS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.prompts import Click
from m2n2_backend.rasters import cell_of, enlarged, reduced

DISC = 0.015
"""Radius of the disc a click marks for GrabCut and the random walker, as a share of the longest side."""

GRABCUT_SIZE = 640
"""Longest side at which GrabCut runs."""

GRABCUT_ITERATIONS = 5
"""Rounds of color models and cut."""

WALKER_SIZE = 256
"""Longest side at which the random walker runs: its linear system has an unknown per pixel."""

WALKER_BETA = 130.0
"""The random walker's reluctance to cross edges; scikit-image's default."""

GEODESIC_SIZE = 640
"""Longest side at which geodesic distances are computed."""

GEODESIC_FLOOR = 0.002
"""Cost of a step where colors do not change at all, beside the gradient magnitude of an image in [0, 1]."""


class GrabCut:
    """OpenCV's GrabCut: color models of the clicks' discs and of everything that is not marked, then a graph cut."""

    def start(self, rgb: NDArray[np.uint8]) -> GrabCutPhotograph:
        """Reduce the photograph, uint8 [H, W, 3]."""
        return GrabCutPhotograph((rgb.shape[0], rgb.shape[1]), reduced(rgb, GRABCUT_SIZE))


class RandomWalker:
    """scikit-image's random walker: a pixel belongs to the label whose seeds a walker from it meets first."""

    def start(self, rgb: NDArray[np.uint8]) -> RandomWalkerPhotograph:
        """Reduce the photograph, uint8 [H, W, 3]."""
        return RandomWalkerPhotograph((rgb.shape[0], rgb.shape[1]), reduced(rgb, WALKER_SIZE))


class Geodesic:
    """The label of the nearest seed by geodesic distance, where a step costs the image's gradient magnitude."""

    def start(self, rgb: NDArray[np.uint8]) -> GeodesicPhotograph:
        """Reduce the photograph and compute the cost of each pixel."""
        small = reduced(rgb, GEODESIC_SIZE)
        smooth = cv2.GaussianBlur(small.astype(np.float32) / 255.0, (0, 0), 1.0)
        across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=0.125)
        down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=0.125)
        gradient = np.sqrt((across**2 + down**2).sum(axis=2))
        return GeodesicPhotograph((rgb.shape[0], rgb.shape[1]), gradient + np.float32(GEODESIC_FLOOR))


@dataclass(frozen=True)
class _ReducedPhotograph:
    """One photograph of size (H, W), reduced to ``small``, uint8 [h, w, 3]."""

    size: tuple[int, int]
    small: NDArray[np.uint8]
    grid: None = None
    ipf_residual: None = None


class GrabCutPhotograph(_ReducedPhotograph):
    """One photograph that GrabCut segments."""

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        """Run five iterations from the start, so that equal clicks give equal masks."""
        seeds = _seeds(clicks, self.size, self.small.shape[:2])
        trimap = np.full(seeds.shape, cv2.GC_PR_BGD, np.uint8)
        trimap[seeds == _BACKGROUND] = cv2.GC_BGD
        trimap[seeds == _FOREGROUND] = cv2.GC_FGD
        # The k-means in it draws from OpenCV's global generator.
        cv2.setRNGSeed(0)
        cv2.grabCut(
            self.small, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK
        )
        return enlarged((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD), self.size)


class RandomWalkerPhotograph(_ReducedPhotograph):
    """One photograph that the random walker segments."""

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        """The pixels whose walker more probably reaches a positive seed first."""
        from skimage.segmentation import random_walker

        seeds = _seeds(clicks, self.size, self.small.shape[:2])
        labels = random_walker(self.small, seeds, beta=WALKER_BETA, mode="bf", channel_axis=-1)
        return enlarged(labels == _FOREGROUND, self.size)


@dataclass(frozen=True)
class GeodesicPhotograph:
    """One photograph.

    Attributes:
        size: (H, W) of the photograph.
        cost: What a step over each pixel costs, float32 [h, w], > 0.
        distances: Distances that were computed so far, float64 [h, w], by seed (row, col); None is the border.
    """

    size: tuple[int, int]
    cost: NDArray[np.float32]
    distances: dict[tuple[int, int] | None, NDArray[np.float64]] = field(default_factory=dict)
    grid: None = None
    ipf_residual: None = None

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        """The pixels whose nearest positive click is nearer than the nearest negative click and the border."""
        points = _points(clicks, self.size, self.cost.shape)
        positive = [self._distance(point) for point, click in zip(points, clicks, strict=True) if click.positive]
        negative = [self._distance(point) for point, click in zip(points, clicks, strict=True) if not click.positive]
        negative.append(self._distance(None))
        return enlarged(np.minimum.reduce(positive) < np.minimum.reduce(negative), self.size)

    def _distance(self, point: tuple[int, int] | None) -> NDArray[np.float64]:
        """Distances from one pixel (row, col), or from the image's border, to every pixel."""
        from skimage.graph import MCP_Geometric

        if point not in self.distances:
            starts = [point] if point else list(zip(*np.nonzero(_border(self.cost.shape)), strict=True))
            self.distances[point] = MCP_Geometric(self.cost).find_costs(starts)[0]
        return self.distances[point]


_FOREGROUND = 1
_BACKGROUND = 2


def _seeds(clicks: Sequence[Click], size: tuple[int, int], small: tuple[int, ...]) -> NDArray[np.uint8]:
    """Discs at the clicks, uint8 [h, w]: 1 foreground, 2 background, 0 unknown."""
    seeds = np.zeros(small[:2], np.uint8)
    if all(click.positive for click in clicks):
        seeds[_border(small)] = _BACKGROUND
    radius = max(2, round(DISC * max(small)))
    for (row, col), click in zip(_points(clicks, size, small), clicks, strict=True):
        # Later clicks correct earlier ones, so they are drawn on top.
        cv2.circle(seeds, (col, row), radius, _FOREGROUND if click.positive else _BACKGROUND, cv2.FILLED)
    return seeds


def _points(clicks: Sequence[Click], size: tuple[int, int], small: tuple[int, ...]) -> list[tuple[int, int]]:
    """The clicks' (row, col) in the reduced photograph."""
    return [(cell_of(click.y, size[0], small[0]), cell_of(click.x, size[1], small[1])) for click in clicks]


def _border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The outermost pixels, bool [h, w]."""
    border = np.ones(shape[:2], np.bool_)
    border[1:-1, 1:-1] = False
    return border
