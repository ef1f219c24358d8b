"""Image bytes → RGB pixels, with the limits and the EXIF rules every entry shares."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from m2n2_backend.errors import ImageTooLarge, InvalidImage, M2N2Error
from m2n2_backend.tiff_tags import bytes_of_tags

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Decoders that are opened; Pillow's others (EPS, PDF, …) widen the surface for no user."""

MAX_SCANS = 100
"""Most passes over the pixels in a JPEG; progressive ones have about ten, and one more may cost 14 bytes."""

MAX_TAG_BYTES = 16 * 1024**2
"""Most bytes that the tags of a TIFF, or of EXIF data, refer to."""

_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_TIFF = (b"II", b"MM")
_JPEG = b"\xff\xd8\xff"
_SCAN = 0xDA
_END = 0xD9
# Within the pixels of a JPEG 0xFF is followed by zero or by a restart, else it begins a segment.
_SEGMENT = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
_WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one photograph the way a browser shows it.

    The EXIF orientation is applied, transparency is laid on white, CMYK and gray become RGB, of an animation
    the first frame is taken, and 16-bit or float samples are scaled to 8 bits by their own range.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels accepted; checked on the header, before anything is decoded.

    Returns:
        RGB pixels, uint8 [H, W, 3], contiguous.

    Raises:
        InvalidImage: No image, a truncated one, or a format that is not in ``FORMATS``.
        ImageTooLarge: More than ``max_pixels``, or more passes over them than ``MAX_SCANS``.
    """
    with _opened(data, max_pixels) as image:
        image.seek(0)
        upright = ImageOps.exif_transpose(image) if _tells_orientation(image) else image
        return np.ascontiguousarray(_to_rgb(upright))


def natural_size(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Size of an image as a browser shows it, from the header alone.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels accepted.

    Returns:
        Width and height in pixels, after the EXIF orientation.

    Raises:
        InvalidImage: No image, or a format that is not in ``FORMATS``.
        ImageTooLarge: More than ``max_pixels``, or more passes over them than ``MAX_SCANS``.
    """
    with _opened(data, max_pixels) as image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Some releases of Pillow turn a TIFF by themselves, and its size before its pixels.
            tags = image.tag_v2
            width, height, orientation = int(tags[_WIDTH]), int(tags[_HEIGHT]), tags.get(_ORIENTATION)
        else:
            width, height = image.size
            orientation = image.getexif().get(_ORIENTATION) if _tells_orientation(image) else None
        turned = orientation in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """An image whose header was read and checked; what Pillow raises inside becomes one of our errors."""
    try:
        with warnings.catch_warnings():
            # The pixel limit below is ours and stricter than Pillow's guess at a decompression bomb.
            warnings.simplefilter("ignore")
            if data.startswith(_TIFF):
                _require_few_tags(data)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise _too_large(f"image has {width}x{height} pixels", max_pixels)
                if data.startswith(_JPEG) and data.count(bytes((0xFF, _SCAN))) > MAX_SCANS:
                    _require_few_scans(data)
                if isinstance(exif := image.info.get("exif"), bytes):
                    _require_few_tags(exif.removeprefix(b"Exif\0\0"))
                if any(tile[0] == "bmp_rle" for tile in image.tile):
                    # Decoded pair by pair in Python, which a large file turns into half a minute.
                    raise InvalidImage("run-length encoded BMP is not read: save the image as PNG")
                yield image
    except M2N2Error:
        raise
    except UnidentifiedImageError as error:
        raise InvalidImage(f"not an image, or none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        # Pillow's own limit comes first where the header promises twice as much as it likes.
        raise _too_large("image has too many pixels", max_pixels) from error
    except Exception as error:
        # A damaged file may raise nearly anything in a decoder: OSError, struct.error, IndexError, …
        raise InvalidImage(f"image cannot be decoded: {error}") from error


def _too_large(found: str, max_pixels: int) -> ImageTooLarge:
    return ImageTooLarge(f"{found}, at most {max_pixels} allowed (M2N2_MAX_IMAGE_PIXELS)")


def _require_few_scans(data: bytes) -> None:
    """Count the scans of a JPEG; unlike a search for their marker, without those in metadata."""
    scans, position = 0, 2
    while scans <= MAX_SCANS:
        segment = _SEGMENT.search(data, position)
        if segment is None or segment[1][0] == _END:
            return
        scans += segment[1][0] == _SCAN
        position = segment.end() + int.from_bytes(data[segment.end() : segment.end() + 2], "big")
    raise ImageTooLarge(f"JPEG with more than {MAX_SCANS} scans: save it again, or as PNG")


def _require_few_tags(tiff: bytes) -> None:
    if bytes_of_tags(tiff) > MAX_TAG_BYTES:
        raise ImageTooLarge(f"the image's tags have more than {MAX_TAG_BYTES} bytes: save it again, or as PNG")


def _tells_orientation(image: Image.Image) -> bool:
    """Whether to ask for the orientation; before the pixels are decoded.

    Pillow would decode a whole PNG to look for one behind the pixels; no browser does.
    """
    return image.format != "PNG" or "exif" in image.info


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """An opened image of any mode → uint8 [H, W, 3]."""
    if image.mode in _WIDE_MODES:
        samples = np.asarray(image, dtype=np.float64)
        low, high = float(np.nanmin(samples)), float(np.nanmax(samples))
        scaled = np.nan_to_num((samples - low) / max(high - low, 1e-12)) * 255.0
        return np.repeat(scaled.round().astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
    return np.asarray(image.convert("RGB"))
