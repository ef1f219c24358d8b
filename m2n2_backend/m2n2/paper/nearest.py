"""Step 7: truncated nearest neighbor (Sec. 3.1 and 3.4, Eq. 1, 2, 7, 10, 11)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

_BEYOND = np.float32(1.0 + 1e-6)  # a tie between the labels goes to the background, as a later correction would want


def nearest_neighbor(
    levels: Sequence[NDArray[np.uint16]],
    thresholds: Sequence[int],
    positive: Sequence[bool],
    extra: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Distance to the foreground, such that a pixel is foreground where it is ≤ 1.

    With f and b the least d_i = M'_i/λ_i over the foreground and background prompts, it is f where b > 1 and f/b
    where b ≤ 1: exactly Eq. 11 once compared with 1, and continuous, so it can be resized.

    Args:
        levels: M'_i of each prompt, uint16 [H, W].
        thresholds: λ_i, in levels, ≥ 0; 0 selects the plateau of the prompt alone.
        positive: y_i.
        extra: One more foreground distance, that of boxes, float32 [H, W]; it is overwritten.

    Returns:
        float32 [H, W], ≥ 0.

    Raises:
        ValueError: The foreground has no prompt.
    """
    prompts = list(zip(levels, thresholds, positive, strict=True))
    foreground = _least([(own, threshold) for own, threshold, label in prompts if label], extra)
    background = _least([(own, threshold) for own, threshold, label in prompts if not label])
    if foreground is None:
        raise ValueError("no foreground prompt")
    if background is not None:
        _compete(foreground, background)
    return foreground


def _least(
    maps: Sequence[tuple[NDArray[np.uint16], int]], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32] | None:
    """Pixelwise minimum of M'/λ and ``out``, which is overwritten; None if there are neither maps nor ``out``."""
    if maps and out is None:
        out = np.full(maps[0][0].shape, np.inf, np.float32)
    for levels, threshold in maps:
        _lower(out, levels, np.float32(max(threshold, 0.5)))
    return out


# Divided and not multiplied by the inverse: 18/24 and 21/28 are a tie. No divisor is 0.
@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _lower(out, levels, threshold):
    for y in prange(out.shape[0]):
        for x in range(out.shape[1]):
            out[y, x] = min(out[y, x], np.float32(levels[y, x]) / threshold)


@njit(parallel=True, cache=True, nogil=True)
def _compete(foreground, background):
    for y in prange(foreground.shape[0]):
        for x in range(foreground.shape[1]):
            f, b = foreground[y, x], background[y, x]
            if b <= 1:
                if b <= f:
                    foreground[y, x] = max(f / max(b, np.float32(1e-6)), _BEYOND)
                else:
                    foreground[y, x] = f / b
