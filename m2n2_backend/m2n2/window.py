"""The part of a photograph that some pixels lie in."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns."""


def window_around(mask: NDArray[np.bool_], margin: float = 0.0) -> Window | None:
    """The bounding box of a mask, bool [H, W], with a margin in pixels; None of nothing."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    down = slice(int(rows[0]), int(rows[-1]) + 1)
    cols = np.flatnonzero(mask[down].any(axis=0))
    return widened((down, slice(int(cols[0]), int(cols[-1]) + 1)), margin)


def widened(window: Window, margin: float) -> Window:
    """A window with so many pixels more on each side; it may reach beyond the image's last row and column."""
    reach = math.ceil(margin)
    down, across = (slice(max(0, side.start - reach), side.stop + reach) for side in window)
    return down, across
