"""Photographs whose objects are known to the pixel, and masks as Label Studio stores them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image

DISC = (170, 200, 95)
"""x, y and radius of the red disc."""

PLATE = (380, 150, 580, 390)
"""x0, y0, x1, y1 of the blue plate."""

SIZE = (640, 480)
_ORIENTATION = 0x0112
_UNIT, _RESOLUTION_X, _RESOLUTION_Y = 0x0128, 0x011A, 0x011B
_EXIF, _SHOWN_WIDTH, _SHOWN_HEIGHT = 0x8769, 0xA002, 0xA003


def scene(size: tuple[int, int] = SIZE) -> Image.Image:
    """A red disc and a blue plate on a mottled green ground."""
    noise = np.random.default_rng(7).normal(0, 6, (SIZE[1], SIZE[0], 3))
    pixels = np.full((SIZE[1], SIZE[0], 3), (96, 140, 84), np.float64)
    pixels[disc()] = (205, 52, 46)
    pixels[plate()] = (44, 78, 190)
    picture = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    return picture if size == SIZE else picture.resize(size, Image.Resampling.BICUBIC)


def disc() -> NDArray[np.bool_]:
    """Mask of the disc, [H, W]."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.asarray((x - DISC[0]) ** 2 + (y - DISC[1]) ** 2 <= DISC[2] ** 2)


def plate() -> NDArray[np.bool_]:
    """Mask of the plate, [H, W]."""
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[PLATE[1] : PLATE[3], PLATE[0] : PLATE[2]] = True
    return mask


def save_scene(folder: Path, name: str = "scene.jpg") -> Path:
    """The scene as a file."""
    scene().save(folder / name, quality=95)
    return folder / name


def save_turned(folder: Path) -> Path:
    """The scene as a camera held upright stores it: lying on its side, with EXIF orientation 6."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    scene().transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=95, exif=exif)
    return folder / "turned.jpg"


def save_dense(folder: Path) -> Path:
    """The scene, cut off in its last bytes, with EXIF data that make Chromium show it at half its size."""
    exif = Image.Exif()
    exif[_UNIT], exif[_RESOLUTION_X], exif[_RESOLUTION_Y] = 2, 144.0, 144.0
    shown = exif.get_ifd(_EXIF)
    shown[_SHOWN_WIDTH], shown[_SHOWN_HEIGHT] = SIZE[0] // 2, SIZE[1] // 2
    scene().save(folder / "dense.jpg", quality=95, exif=exif)
    whole = (folder / "dense.jpg").read_bytes()
    (folder / "dense.jpg").write_bytes(whole[:-500])
    return folder / "dense.jpg"


def mask_of(regions: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """The union of brush, bitmask and polygon regions, bool [H, W]."""
    shape = (regions[0]["original_height"], regions[0]["original_width"])
    mask = np.zeros(shape, bool)
    for region in regions:
        assert (region["original_height"], region["original_width"]) == shape
        mask |= _decoded(region, shape)
    return mask


def _decoded(region: dict[str, Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    value = region["value"]
    if "rle" in value:
        return np.asarray(decode_rle(value["rle"]).reshape(*shape, 4)[..., 3] > 0)
    if "imageDataURL" in value:
        png = base64.b64decode(value["imageDataURL"].partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3] > 0
    # Drawn four times as large, so that the center of a pixel decides.
    fine = np.zeros((4 * shape[0], 4 * shape[1]), np.uint8)
    points = np.array(value["points"]) / 100 * (fine.shape[1], fine.shape[0])
    cv2.fillPoly(fine, [np.round(points - 0.5).astype(np.int32)], 1)
    return fine[2::4, 2::4].astype(bool)
