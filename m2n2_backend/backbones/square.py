"""The photograph as a square: the paper leaves other shapes open."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def squash(rgb: NDArray[np.uint8], side: int, *, area: bool = False) -> NDArray[np.float32]:
    """Resize to a square, float32 [side, side, 3] in [0, 255].

    Args:
        rgb: uint8 [H, W, 3].
        side: Width and height of the result in pixels.
        area: OpenCV's INTER_AREA (released code), which is linear along an axis that grows; else bicubic, with
            antialiasing along each axis that shrinks.
    """
    if area:
        return np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), dtype=np.float32)
    square = Image.fromarray(rgb).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.float32)
