"""The simulated users of both protocols, who choose the next click (Sec. 4)."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.evaluation.protocol import ProtocolName
from m2n2_backend.prompts import Click

OBJECT = 255
"""Label of pixels that belong to the object."""

IGNORED = 128
"""Label of pixels that count neither as errors nor in the IoU."""


class SimulatedUser(Protocol):
    """A user who looks at a mask and clicks."""

    def next_click(self, mask: NDArray[np.bool_]) -> Click:
        """Where to click, given the current segmentation, bool [H, W]; all False before the first click."""
        ...


def simulated_user(protocol: ProtocolName, label: NDArray[np.uint8]) -> SimulatedUser:
    """The user of ``protocol``, who knows the ground truth ``label``, uint8 [H, W]."""
    return ReleasedClicker(label) if protocol == "released" else Clicker(label)


class Clicker:
    """A user who clicks the center of the largest region of errors, as in RITM and SimpleClick.

    The center is the pixel that is farthest from correct pixels, ignored pixels and the outside of the image.
    """

    def __init__(self, label: NDArray[np.uint8]) -> None:
        """Take the ground truth, uint8 [H, W]: ``OBJECT``, ``IGNORED``, and anything else for background."""
        self._object = label == OBJECT
        self._background = ~self._object & (label != IGNORED)
        self._clicked = np.zeros(label.shape, np.bool_)

    def next_click(self, mask: NDArray[np.bool_]) -> Click:
        """Choose a pixel that was not clicked before, and remember it.

        If missing and superfluous regions are equally thick, the click is negative. Among equally central pixels the
        first in row-major order is chosen. A mask without errors gets a negative click at the first free pixel.
        """
        missing = self._unclicked(self._object & ~mask)
        superfluous = self._unclicked(self._background & mask)
        positive = bool(missing.max() > superfluous.max())
        depth = missing if positive else superfluous
        row, col = np.unravel_index(int(depth.argmax()), depth.shape)
        self._clicked[row, col] = True
        return Click(int(col), int(row), positive)

    def _unclicked(self, region: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Squared depth, float64 [H, W]; -1 at pixels clicked before."""
        return np.where(self._clicked, -1.0, squared_depth(region))


class ReleasedClicker:
    """A user who clicks the center of the largest region of errors of either kind, as the released code does.

    This user does not remember earlier clicks, and gives the click the label that its pixel has. If the mask has no
    errors, the user clicks the center of the object.
    """

    def __init__(self, label: NDArray[np.uint8]) -> None:
        """Take the ground truth, uint8 [H, W]: ``OBJECT``, and anything else for background."""
        self._object = label == OBJECT

    def next_click(self, mask: NDArray[np.bool_]) -> Click:
        """Click the pixel that is farthest from correct pixels, the first of them in row-major order."""
        wrong = mask != self._object
        depth = squared_depth(wrong if wrong.any() else self._object)
        row, col = np.unravel_index(int(depth.argmax()), depth.shape)
        return Click(int(col), int(row), bool(self._object[row, col]))


def squared_depth(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Squared distance to the nearest pixel outside of the region or the image, float64 [H, W]; 0 outside.

    Squares of exact distances are integers. The last digit of OpenCV's square root differs from pixel to pixel and
    with the number of threads, and ties would be decided by it.
    """
    padded = np.pad(region.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.asarray(np.rint(np.square(depth, dtype=np.float64)))
