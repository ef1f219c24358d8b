"""What is measured on: photographs of any size, and where to click on them; the same in every run."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.images import decode_image
from m2n2_backend.prompts import Box, Click
from m2n2_backend.resources import sample_photograph

_QUALITY = 90  # of JPEG files


def photograph(width: int, height: int, number: int = 0) -> NDArray[np.uint8]:
    """The package's sample photograph, cut to the shape and resized.

    Args:
        width: In pixels.
        height: In pixels.
        number: Others than 0 are cut elsewhere, mirrored and tinted, so that every one has another mask.

    Returns:
        uint8 [height, width, 3].
    """
    rgb = decode_image(sample_photograph().read_bytes(), max_pixels=10**8)
    scale = min(rgb.shape[0] / height, rgb.shape[1] / width)
    generator = np.random.default_rng(number)
    if number:
        scale *= generator.uniform(0.7, 1.0)
    rows, cols = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (int(generator.integers(0, free + 1)) if number else 0 for free in _free(rgb, rows, cols))
    cut = rgb[top : top + rows, left : left + cols]
    if number:
        cut = (cut[:, :: -1 if number % 2 else 1] * generator.uniform(0.75, 1.0, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A photograph, uint8 [H, W, 3], as a JPEG file."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return bytes(encoded.tobytes())


def center(size: tuple[int, int]) -> Click:
    """The click in the middle of a photograph of this width and height."""
    return Click(size[0] // 2, size[1] // 2)


def middle(size: tuple[int, int]) -> Box:
    """The box around the middle half of both sides."""
    return Box(size[0] // 4, size[1] // 4, max(size[0] * 3 // 4, 1), max(size[1] * 3 // 4, 1))


def new_clicks(size: tuple[int, int], count: int) -> list[Click]:
    """Different pixels all over the photograph, every third one background."""
    flat = np.random.default_rng(0).choice(size[0] * size[1], count, replace=False)
    return [Click(int(at) % size[0], int(at) // size[0], i % 3 != 2) for i, at in enumerate(flat)]


def _free(rgb: NDArray[np.uint8], rows: int, cols: int) -> tuple[int, int]:
    return rgb.shape[0] - rows, rgb.shape[1] - cols
