"""Photographs and prompts to measure with, the same in every run."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.images import decode_image
from m2n2_backend.prompts import Box, Click
from m2n2_backend.resources import sample_photograph

Size = tuple[int, int]
"""Width and height in pixels."""


def photograph(size: Size, number: int = 0) -> NDArray[np.uint8]:
    """A cut of the package's sample photograph, uint8 [H, W, 3]; every number gives another one, always the same."""
    rgb = decode_image(sample_photograph().read_bytes(), max_pixels=10**8)
    generator = np.random.default_rng(number)
    scale = min(rgb.shape[0] / size[1], rgb.shape[1] / size[0]) * (generator.uniform(0.7, 1.0) if number else 1.0)
    rows, cols = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
    top, left = generator.integers(0, rgb.shape[0] - rows + 1), generator.integers(0, rgb.shape[1] - cols + 1)
    cut = rgb[top : top + rows, left : left + cols] * generator.uniform(0.75, 1.0, 3)
    return np.asarray(cv2.resize(cut.astype(np.uint8), size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A photograph, uint8 [H, W, 3], as a JPEG file."""
    return bytes(cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def center(size: Size) -> Click:
    """The click in the middle of a photograph."""
    return Click(size[0] // 2, size[1] // 2)


def middle(size: Size) -> Box:
    """The box around the middle half of both sides."""
    return Box(size[0] // 4, size[1] // 4, max(size[0] * 3 // 4, 1), max(size[1] * 3 // 4, 1))


def new_clicks(size: Size, count: int, seed: int = 0) -> list[Click]:
    """Different pixels all over the photograph, every third one background."""
    flat = np.random.default_rng(seed).choice(size[0] * size[1], count, replace=False)
    return [Click(int(at) % size[0], int(at) // size[0], i % 3 != 2) for i, at in enumerate(flat)]
