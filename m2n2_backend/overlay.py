"""A mask and its prompts drawn over the photograph."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.prompts import Box, Click

_TINT = (40, 120, 255)
_POSITIVE = (40, 200, 60)
_NEGATIVE = (230, 40, 40)
_WHITE = (255, 255, 255)


def draw_overlay(
    rgb: NDArray[np.uint8], mask: NDArray[np.bool_], clicks: Sequence[Click] = (), boxes: Sequence[Box] = ()
) -> NDArray[np.uint8]:
    """Tint the object, outline it, and mark clicks (green foreground, red background) and boxes.

    Args:
        rgb: uint8 [H, W, 3].
        mask: bool [H, W].
        clicks: In pixels.
        boxes: In pixels.

    Returns:
        uint8 [H, W, 3], a new image.
    """
    out = rgb.copy()
    out[mask] = (0.55 * rgb[mask] + 0.45 * np.array(_TINT)).astype(np.uint8)
    size = max(1, round(max(rgb.shape[:2]) / 400))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, contours, -1, _WHITE, size)
    for box in boxes:
        cv2.rectangle(out, (box.x0, box.y0), (box.x1 - 1, box.y1 - 1), _POSITIVE, size)
    for click in clicks:
        center = (click.x, click.y)
        cv2.circle(out, center, 4 * size + 1, _WHITE, -1, cv2.LINE_AA)
        cv2.circle(out, center, 3 * size, _POSITIVE if click.positive else _NEGATIVE, -1, cv2.LINE_AA)
    return out
