"""Reads ground-truth files by the rules of each data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.errors import DatasetError, M2N2Error
from m2n2_backend.evaluation.clicker import IGNORED, OBJECT
from m2n2_backend.images import decode_image

MAX_PIXELS = 200_000_000
"""Size of the largest photograph that is opened."""

MaskRule = Literal["strict", "trimap", "nonzero", "instance", "class"]
"""How a file is read.

``strict``: 255 object, 0 background, 128 ignored, nothing else. ``trimap``: above 128 object, 128 ignored (GrabCut,
Berkeley). ``nonzero``: every palette index or color that is not 0 is object (DAVIS, COCO_MVal, and every
mask image by the ``released`` protocol). ``instance``, ``class``: one index of an SBD ``.mat`` file.
"""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a photograph, uint8 [H, W, 3], with its EXIF orientation applied.

    Raises:
        DatasetError: The file cannot be read or decoded.
    """
    try:
        return decode_image(path.read_bytes(), max_pixels=MAX_PIXELS)
    except (OSError, M2N2Error) as error:
        raise DatasetError(f"{path} cannot be read, the data set may be incomplete: {error}") from error


def read_label(path: Path, rule: MaskRule, instance: int = 0) -> NDArray[np.uint8]:
    """Read a ground truth, uint8 [H, W]: 255 object, 128 ignored, 0 background.

    Args:
        path: Mask image, or an SBD ``.mat`` file.
        rule: How the data set's files are read.
        instance: Index of the object for ``instance`` and ``class``.

    Raises:
        DatasetError: The file cannot be read, holds values that the rule does not know, or has no object.
    """
    if rule == "instance" or rule == "class":
        truth = read_indices(path, rule) == instance
        ignored = np.zeros_like(truth)
    else:
        truth, ignored = _read_image(path, rule)
    if not truth.any():
        raise DatasetError(f"{path} holds no object pixels")
    label = np.where(truth, np.uint8(OBJECT), np.uint8(0))
    label[ignored] = IGNORED
    return label


def read_indices(path: Path, kind: Literal["instance", "class"]) -> NDArray[np.uint8]:
    """Read the instance or class indices of an SBD file, uint8 [H, W]; 0 is background.

    Raises:
        DatasetError: The file is not a ``.mat`` file with ``GTinst.Segmentation`` or ``GTcls.Segmentation``.
    """
    from scipy.io import loadmat

    try:
        content: Any = loadmat(path)["GTinst" if kind == "instance" else "GTcls"][0][0]["Segmentation"]
    except Exception as error:  # a cut-off file may raise nearly anything in the parser
        raise DatasetError(f"{path} is not an SBD {kind} file, or incomplete: {error}") from error
    return np.asarray(content, np.uint8)


def _read_image(path: Path, rule: MaskRule) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Read the object's and the ignored pixels of a mask image, bool [H, W] each."""
    try:
        with Image.open(path) as image:
            if rule == "nonzero":
                # The index itself: an object may be painted black in the palette.
                values = np.asarray(image if image.mode in ("P", "L", "1") else image.convert("RGB"))
                truth = np.asarray((values.reshape(*values.shape[:2], -1) != 0).any(axis=2), np.bool_)
                return truth, np.zeros_like(truth)
            values = np.asarray(image.convert("L"))
    except (OSError, SyntaxError) as error:
        raise DatasetError(f"{path} cannot be read, the data set may be incomplete: {error}") from error
    if rule == "strict" and not np.isin(values, (0, IGNORED, OBJECT)).all():
        found = ", ".join(map(str, np.unique(values)[:5]))
        raise DatasetError(f"{path} holds the values {found} …; 255 is object, 0 background, 128 ignored")
    return values > IGNORED, values == IGNORED
