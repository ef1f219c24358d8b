"""Affinities from color and texture: no weights, nothing to download, nothing learned."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures
from m2n2_backend.m2n2.refine.confidence import Calibration

GRID = 40
"""Cells per side where none is asked for."""

_PIXELS = 8  # per side of a cell
# Measured on GrabCut with the first head alone, mean IoU of a first click at the object's center and median steps of
# its chain: 6, 6, 0.1: 0.616 and 1000 (the limit); 10, 8, 0.12: 0.616 and 225; 12, 12, 0.25: 0.593; 20, 12, 0: 0.538.
_COLOR = 10.0  # CIE Lab units that count as one standard deviation, for a cell's mean …
_TEXTURE = 8.0  # … and for the standard deviation inside the cell
_PLACE = 0.12  # share of the image's side


BAND = 1.0
"""Cells on either side of the mask's edge in which refining lets color decide: a region of like cells ends less
exactly than a network's attention. Clicks for 90 %, photographs of half the size, every second GrabCut / third DAVIS
one, with 0.5: 6.60 / 17.09; 1.0: 5.00 / 16.57; 1.5: 5.00 / 15.96, but twice the collapses; 2.0: 5.48."""


CALIBRATION = Calibration(first=0.81, agreement=0.5)
"""First answers are less often right than a network's, and the wider band changes more of them."""


class ColorAffinity:
    """Cells attend to cells of like color and texture: those nearby with one head, those anywhere with another.

    The affinity of two cells is a Gaussian of the distance between their descriptors (mean and standard deviation
    of CIE Lab, position). Written as a softmax of a dot product it has the form of an attention: the term of the
    row's own descriptor cancels, that of the column's is one more dimension.

    The second head joins the parts of an object that something hides or divides, and lets chains mix sooner. With it
    GrabCut takes 4.2 clicks for 90 % instead of 4.9 (refined), DAVIS as many with half the collapses.
    """

    def __init__(self, *, grid: int | None = None, device: torch.device | None = None) -> None:
        self.grid = grid or GRID
        self.band = BAND
        self.calibration = CALIBRATION
        self.device = device or torch.device("cpu")
        self.fingerprint = f"color-2-g{self.grid}"
        self.description = f"color and texture only, grid {self.grid}: no neural network, weak on complex scenes"

    def features(self, rgb: NDArray[np.uint8]) -> AttentionFeatures:
        """Describe the cells of one image.

        Args:
            rgb: uint8 [H, W, 3].

        Returns:
            One block of two heads, float32 [2, grid², 9] (16-bit would not hold the squared norms).
        """
        side = self.grid * _PIXELS
        square = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(square.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
        cells = lab.reshape(self.grid, _PIXELS, self.grid, _PIXELS, 3).transpose(0, 2, 1, 3, 4)
        cells = cells.reshape(self.grid**2, _PIXELS**2, 3)  # [n, pixels, Lab]
        place = np.indices((self.grid, self.grid)).reshape(2, -1).T / self.grid / _PLACE
        look = [cells.mean(axis=1) / _COLOR, cells.std(axis=1) / _TEXTURE]
        heads = [np.concatenate([*look, own], axis=1) for own in (place, np.zeros_like(place))]
        descriptors = np.stack(heads).astype(np.float32)  # [2, n, 8]
        descriptors -= descriptors.mean(axis=1, keepdims=True)  # shorter vectors lose less in the norms' difference
        norms = np.square(descriptors).sum(axis=2, keepdims=True) / 2
        queries = np.concatenate([descriptors, np.ones_like(norms)], axis=2)
        keys = np.concatenate([descriptors, -norms], axis=2)
        block = AttentionBlock(torch.from_numpy(queries), torch.from_numpy(keys), 1.0, 1.0)
        return AttentionFeatures((block,), self.grid, self.grid)
