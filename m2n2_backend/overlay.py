"""Draws a mask and its prompts over the photograph."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.prompts import Click, PointPrompt, Polygon, Region

MASK_COLOR = (31, 111, 235)
TRUTH_COLOR = (255, 255, 255)
POSITIVE = (26, 156, 60)
NEGATIVE = (209, 36, 47)


def draw_overlay(
    rgb: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    clicks: Sequence[PointPrompt] = (),
    boxes: Sequence[Region] = (),
    truth: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Tint and outline the object, and mark boxes, scribbles and clicks: foreground is green, background red.

    Args:
        rgb: uint8 [H, W, 3].
        mask: bool [H, W].
        clicks: Clicks and scribbles, in pixels; the newest click has a black rim.
        boxes: Boxes and polygons, in pixels.
        truth: The ground truth, bool [H, W], whose outline is white.

    Returns:
        uint8 [H, W, 3], a new image.
    """
    tint = 0.6 * rgb + 0.4 * np.asarray(MASK_COLOR)
    picture = np.where(mask[..., None], tint, rgb * 0.95).astype(np.uint8)
    height, width = mask.shape
    scale = max(rgb.shape[:2]) / 640.0
    line = max(1, round(1.5 * scale))
    if truth is not None:
        _outline(picture, truth, TRUTH_COLOR, line)
    _outline(picture, mask, MASK_COLOR, line)
    for box in boxes:
        if isinstance(box, Polygon):
            corners = np.round(np.array(box.points) - 0.5).astype(np.int32)
            cv2.polylines(picture, [corners], True, POSITIVE, line, cv2.LINE_AA)
        else:
            cv2.rectangle(picture, (box.x0, box.y0), (box.x1 - 1, box.y1 - 1), POSITIVE, line)
    for index, click in enumerate(clicks, start=1):
        color = POSITIVE if click.positive else NEGATIVE
        if not isinstance(click, Click):
            picture[click.mask((height, width), (height, width))] = color
            continue
        center = (click.x, click.y)
        rim = (0, 0, 0) if index == len(clicks) else (255, 255, 255)
        cv2.circle(picture, center, round(6.5 * scale) + 1, rim, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(picture, center, max(2, round(5 * scale)), color, cv2.FILLED, cv2.LINE_AA)
    return picture


def at_size(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Enlarge a mask, bool [h, w] → [H, W], by nearest neighbor: for pictures only, as edges become stairs."""
    rows = np.arange(size[0]) * mask.shape[0] // size[0]
    cols = np.arange(size[1]) * mask.shape[1] // size[1]
    return np.asarray(mask[rows][:, cols])


def _outline(picture: NDArray[np.uint8], mask: NDArray[np.bool_], color: tuple[int, int, int], line: int) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, color, line, cv2.LINE_AA)
