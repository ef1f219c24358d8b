"""Large photographs with small objects, made of a data set's own: n × n side by side, the object in one of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.errors import DatasetError
from m2n2_backend.evaluation.data.datasets import Sample, check_limit

MOST = 16
"""Most photographs in a row: of 640 × 480 pixels they make 79 megapixels."""


@dataclass(frozen=True)
class Mosaic(Sample):
    """An object in a mosaic; the other fields are those of the object's own sample.

    Attributes:
        tiles: n² samples, row by row, whose photographs are shown.
        place: Which of them holds the object.
        tile: (H, W) to which each photograph is resized, upright ones after a quarter turn.
    """

    tiles: tuple[Sample, ...] = ()
    place: int = 0
    tile: tuple[int, int] = (1, 1)

    @property
    def photograph(self) -> Hashable:
        """No two objects share a mosaic."""
        return self.name

    def rgb(self) -> NDArray[np.uint8]:
        """Make the photograph, uint8 [n·H, n·W, 3]."""
        shown = [_fitted(each.rgb(), self.tile, cv2.INTER_CUBIC) for each in self.tiles]
        side = round(len(shown) ** 0.5)
        rows = [np.concatenate(shown[first : first + side], axis=1) for first in range(0, len(shown), side)]
        return np.concatenate(rows)

    def label(self, size: tuple[int, ...]) -> NDArray[np.uint8]:
        """Make the ground truth, uint8 [n·H, n·W]: the object in its place, background everywhere else."""
        own = self.tiles[self.place]
        small = _fitted(own.label(own.rgb().shape[:2]), self.tile, cv2.INTER_NEAREST)
        label = np.zeros(size, np.uint8)
        row, col = divmod(self.place, round(len(self.tiles) ** 0.5))
        height, width = self.tile
        label[row * height : (row + 1) * height, col * width : (col + 1) * width] = small
        return label


def mosaics(samples: Sequence[Sample], side: int, limit: int | None = None) -> list[Sample]:
    """One mosaic for each sample, or the first ``limit`` of them; equal samples make equal mosaics.

    Args:
        samples: All samples of a data set; the photographs of any may appear beside an object.
        side: Photographs in a row, and rows.

    Raises:
        DatasetError: ``side`` is not from 2 to ``MOST``, ``limit`` is not positive, or the first photograph cannot be
            read.
    """
    if not 2 <= side <= MOST:
        raise DatasetError(f"a mosaic of {side} × {side} photographs: choose from 2 to {MOST}")
    check_limit(limit, "mosaics")
    height, width = sorted(samples[0].rgb().shape[:2])
    generator = np.random.default_rng(0)
    made: list[Sample] = []
    for sample in samples[:limit]:
        chosen = generator.choice(len(samples), side * side, replace=len(samples) < side * side)
        tiles, place = [samples[index] for index in chosen], int(generator.integers(side * side))
        tiles[place] = sample
        made.append(
            Mosaic(
                sample.name,
                sample.image,
                sample.mask,
                sample.rule,
                sample.instance,
                tuple(tiles),
                place,
                (height, width),
            )
        )
    return made


def _fitted(pixels: NDArray[np.uint8], tile: tuple[int, int], interpolation: int) -> NDArray[np.uint8]:
    """Pixels, uint8 [h, w] or [h, w, 3], turned by a quarter if they are upright, at the size of a tile."""
    if pixels.shape[0] > pixels.shape[1]:
        pixels = np.rot90(pixels)
    resized = cv2.resize(np.ascontiguousarray(pixels), (tile[1], tile[0]), interpolation=interpolation)
    return np.asarray(resized, np.uint8)
