"""A backbone without weights, whose cells attend to cells of similar color nearby, and a picture for it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures


class FakeBackbone:
    """A backbone that counts its runs; ``height`` and ``width`` of its grid may differ."""

    fingerprint = "fake"
    description = "fake"
    device = torch.device("cpu")

    def __init__(self, height: int = 12, width: int = 12) -> None:
        self.height, self.width = height, width
        self.calls = 0

    def features(self, rgb: NDArray[np.uint8]) -> AttentionFeatures:
        self.calls += 1
        small = cv2.resize(rgb, (self.width, self.height), interpolation=cv2.INTER_AREA).reshape(-1, 3) / 255.0
        rows, cols = np.divmod(np.arange(self.height * self.width), self.width)
        place = np.stack([rows / self.height, cols / self.width], axis=1)
        cells = np.concatenate([5.0 * small, 4.0 * place], axis=1)
        # softmax over q·k with these two is softmax over -|a - b|²
        ones, squares = np.ones((len(cells), 1)), np.square(cells).sum(axis=1, keepdims=True)
        queries = torch.from_numpy(np.concatenate([2.0 * cells, -ones], axis=1)[None]).float()
        keys = torch.from_numpy(np.concatenate([cells, squares], axis=1)[None]).float()
        return AttentionFeatures((AttentionBlock(queries, keys, 1.0, 1.0),), self.height, self.width)


def scene(height: int = 60, width: int = 90) -> NDArray[np.uint8]:
    """A light disk and a light rectangle on a dark ground, with a little texture."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    rgb = np.full((height, width, 3), (40, 60, 50), np.float64)
    rgb[np.hypot((y - height / 2) / height, (x - width / 4) / width * 1.5) < 0.22] = (220, 180, 60)
    rgb[(np.abs(y - height / 2) < height / 5) & (np.abs(x - 0.75 * width) < width / 8)] = (210, 190, 70)
    return (rgb + generator.normal(0, 6, rgb.shape)).clip(0, 255).astype(np.uint8)


def disks(*colored: tuple[int, int, int, tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Disks of (row, column, radius, color) on a green ground of 80 × 96 pixels, all noisy."""
    y, x = np.mgrid[:80, :96]
    rgb = np.full((80, 96, 3), (70, 120, 60), np.float64)
    for row, col, radius, color in colored:
        rgb[(y - row) ** 2 + (x - col) ** 2 < radius**2] = color
    return (rgb + np.random.default_rng(7).normal(0, 10, rgb.shape)).clip(0, 255).astype(np.uint8)
