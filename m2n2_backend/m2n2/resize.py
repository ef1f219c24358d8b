"""Photographs made smaller, and masks brought back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def reduced(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The photograph, uint8 [H, W, 3], with its longest side at most ``longest`` pixels; itself where it is."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1.0:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def enlarged(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask, bool [h, w], at another (H, W), its corners rounded; itself where it has that size."""
    if mask.shape == size:
        return mask
    soft = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft > 0.5)
