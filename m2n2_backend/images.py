"""Image bytes → RGB pixels, with the limits and the EXIF rules every entry shares."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from m2n2_backend.errors import ImageTooLarge, InvalidImage

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Decoders that are opened; Pillow's others (EPS, PDF, …) widen the surface for no user."""

_WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one photograph the way a browser shows it.

    The EXIF orientation is applied, transparency is laid on white, CMYK and gray become RGB, of an animation the
    first frame is taken, and 16-bit or float samples are scaled to 8 bits by their own range.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels accepted; checked on the header, before anything is decoded.

    Returns:
        RGB pixels, uint8 [H, W, 3], contiguous.

    Raises:
        InvalidImage: No image, a truncated one, or a format that is not in ``FORMATS``.
        ImageTooLarge: More than ``max_pixels``.
    """
    try:
        with warnings.catch_warnings():
            # The pixel limit below is ours and stricter than Pillow's guess at a decompression bomb.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageTooLarge(f"image has {width}x{height} pixels, the limit is {max_pixels} in all")
                image.seek(0)
                return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError as error:
        raise InvalidImage(f"not an image, or none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, ImageTooLarge):
            raise
        raise InvalidImage(f"image cannot be decoded: {error}") from error


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
