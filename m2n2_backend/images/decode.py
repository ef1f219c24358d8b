"""Image files → RGB pixels as a browser shows them, with limits that all callers share."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

from m2n2_backend.errors import ImageTooLarge, InvalidImage, M2N2Error
from m2n2_backend.images import avif, jpeg, png
from m2n2_backend.images.kinds import format_of, refusal, webp_size
from m2n2_backend.images.pixels import rgb_of_image
from m2n2_backend.images.tiff_tags import bytes_of_tags, numbers

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Formats that are opened; Pillow's others (EPS, PDF, …) would only give attackers more to attack."""

DECODING = 2
"""Version of the decoding. Raise it when files give other pixels than before, so that old features are not used."""

MAX_TAG_BYTES = 16 * 1024**2
"""Largest number of bytes that the tags of a TIFF may refer to."""

_WIDTH, _HEIGHT, _ORIENTATION, _FLOAT_SAMPLES = 0x0100, 0x0101, 0x0112, 0x0153
_RESOLUTION_X, _RESOLUTION_Y, _RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
_SHOWN_WIDTH, _SHOWN_HEIGHT = 0xA002, 0xA003
_INCHES, _PIXELS_PER_INCH = 2, 72
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class _OpenedImage:
    """An image whose header was read and checked.

    Attributes:
        image: Pillow's image, whose pixels are not decoded yet.
        size: Width and height at which a browser shows the image, before it is turned.
        orientation: EXIF's number for how the decoded image still has to be turned.
        turns_itself: Whether Pillow may turn the image while it decodes, as some of its releases do with a TIFF.
    """

    image: ImageFile.ImageFile
    size: tuple[int, int]
    orientation: int = 1
    turns_itself: bool = False


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one photograph the way a browser shows it.

    The EXIF orientation is applied, transparency is laid on white, CMYK and gray become RGB, an animation gives its
    first frame, and gray samples of 16 bits are stretched to 8 (see :func:`pixels.stretched`). A JPEG is resized if
    its EXIF data name another size. A file that was cut off or is damaged is decoded up to there, and the rest has
    one color.

    Args:
        data: The file's bytes.
        max_pixels: Largest number of pixels; it is checked on the header, before anything is decoded.

    Returns:
        RGB pixels, uint8 [H, W, 3], contiguous.

    Raises:
        InvalidImage: The file is not an image, does not have a single row, or has a format outside of ``FORMATS``.
        ImageTooLarge: The image has more than ``max_pixels`` pixels, or more than ``jpeg.MAX_SCANS`` scans.
    """
    with _opened(data, max_pixels) as opened:
        image = _loaded(opened, data)
        if opened.turns_itself:
            return np.ascontiguousarray(rgb_of_image(ImageOps.exif_transpose(image)))
        turn = _TURNS.get(opened.orientation)
        upright = image if turn is None else image.transpose(turn)
        rgb = rgb_of_image(upright)
        if opened.size != opened.image.size:
            rgb = np.asarray(Image.fromarray(rgb).resize(_turned(opened)))
        return np.ascontiguousarray(rgb)


def natural_size(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Width and height, in pixels, of an image as a browser shows it, from the header alone.

    Raises:
        InvalidImage: The file is not an image, or has a format outside of ``FORMATS``.
        ImageTooLarge: The image has more than ``max_pixels`` pixels, or more than ``jpeg.MAX_SCANS`` scans.
    """
    with _opened(data, max_pixels) as opened:
        return _turned(opened)


def _turned(opened: _OpenedImage) -> tuple[int, int]:
    width, height = opened.size
    return (height, width) if opened.orientation in (5, 6, 7, 8) else (width, height)


@contextlib.contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[_OpenedImage]:
    """Open the image, and close it at the end; what Pillow raises in between becomes one of our errors."""
    kind = format_of(data)
    if kind is None:
        raise InvalidImage(refusal(data, FORMATS))
    # Pillow's own limit is global and may be lower than ours, which replaces it.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "WEBP":
                _require_few_pixels(webp_size(data), max_pixels)  # opening it takes memory for all of them
            opened = _OPENERS.get(kind, _open)(data, kind)
            with opened.image:
                _require_few_pixels(opened.image.size, max_pixels)
                _require_few_pixels(opened.size, max_pixels)
                yield opened
    except M2N2Error:
        raise
    except UnidentifiedImageError as error:
        raise InvalidImage(
            f"{kind} image cannot be decoded: its header may be cut off or damaged, save it again"
        ) from error
    except Exception as error:
        # A damaged file may raise nearly anything in a decoder: OSError, struct.error, IndexError, …
        raise InvalidImage(
            f"{kind} image cannot be decoded: {error}; it may be cut off or damaged, save it again"
        ) from error


def _open(data: bytes, kind: str) -> _OpenedImage:
    """Open an image that is not turned: browsers ignore the EXIF orientation of a WebP."""
    image = Image.open(io.BytesIO(data), formats=(kind,))
    return _OpenedImage(image, image.size)


def _open_jpeg(data: bytes, kind: str) -> _OpenedImage:
    jpeg.require_few_scans(data)
    lean, exif = jpeg.essentials(data)
    opened = _open(lean, kind)
    tags = numbers(exif)
    return replace(opened, size=_shown_size(opened.size, tags), orientation=int(tags.get(_ORIENTATION, 1)))


def _shown_size(size: tuple[int, int], tags: dict[int, float]) -> tuple[int, int]:
    """The size that the EXIF data name if their resolution agrees with it, as in Chromium; else ``size``."""
    resolution = tags.get(_RESOLUTION_X, 0.0), tags.get(_RESOLUTION_Y, 0.0)
    named = int(tags.get(_SHOWN_WIDTH, 0)), int(tags.get(_SHOWN_HEIGHT, 0))
    if tags.get(_RESOLUTION_UNIT) != _INCHES or not all((*resolution, *named)):
        return size
    asked = tuple(int(side * _PIXELS_PER_INCH / each + 0.5) for side, each in zip(size, resolution, strict=True))
    return named if asked == named else size


def _open_png(data: bytes, kind: str) -> _OpenedImage:
    lean, exif = png.essentials(data)
    return replace(_open(lean, kind), orientation=int(numbers(exif).get(_ORIENTATION, 1)))


def _open_bmp(data: bytes, kind: str) -> _OpenedImage:
    opened = _open(data, kind)
    if any(tile[0] == "bmp_rle" for tile in opened.image.tile):
        # Pillow decodes it pair by pair in Python, which takes half a minute for a large file.
        raise InvalidImage("run-length encoded BMP is not read: save the image as PNG")
    return opened


def _open_tiff(data: bytes, kind: str) -> _OpenedImage:
    if bytes_of_tags(data) > MAX_TAG_BYTES:
        raise ImageTooLarge(f"the tags of the TIFF have more than {MAX_TAG_BYTES} bytes: save it again, or as PNG")
    tags = numbers(data)
    if tags.get(_FLOAT_SAMPLES) == 3:
        raise InvalidImage("TIFF of floating-point samples is not read: save the image as 16-bit or 8-bit PNG")
    # Some releases of Pillow change the image's size when they turn it, so the size comes from the tags.
    size = int(tags.get(_WIDTH, 0)), int(tags.get(_HEIGHT, 0))
    return replace(_open(data, kind), size=size, orientation=int(tags.get(_ORIENTATION, 1)), turns_itself=True)


def _open_avif(data: bytes, kind: str) -> _OpenedImage:
    if not features.check("avif"):
        raise InvalidImage("this server's Pillow cannot read AVIF: install Pillow 11.3 or later, or save it as PNG")
    opened = _open(avif.essentials(data), kind)
    # Here Pillow puts the orientation that it found among the properties.
    exif = bytes(opened.image.info.get("exif", b"")).removeprefix(b"Exif\0\0")
    return replace(opened, orientation=int(numbers(exif).get(_ORIENTATION, 1)))


_OPENERS = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "BMP": _open_bmp,
    "TIFF": _open_tiff,
    "AVIF": _open_avif,
}


def _require_few_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageTooLarge(
            f"image has {size[0]}x{size[1]} pixels, at most {max_pixels} allowed (M2N2_MAX_IMAGE_PIXELS)"
        )


def _loaded(opened: _OpenedImage, data: bytes) -> Image.Image:
    """Decode the pixels; those of a damaged file as far as they can be decoded."""
    image = opened.image
    try:
        image.load()
        return image
    except Exception as error:
        if image.format == "TIFF":
            raise  # browsers do not show a damaged TIFF
        if image.format == "JPEG":
            image = _open(jpeg.completed(jpeg.essentials(data)[0]), "JPEG").image
            with contextlib.suppress(Exception):
                image.load()
        # Pillow keeps what it has decoded, but would try again as long as there are tiles left.
        image.tile = []
        if image.getbbox() is None:
            raise InvalidImage(
                f"{image.format} file was cut off or is damaged, and shows nothing: upload it again"
            ) from error
        return image
