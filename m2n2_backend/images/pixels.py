"""Pictures in memory → uint8 RGB, for files, the service, batches and the Python API alike."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from m2n2_backend.errors import InvalidImage

_WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
_RARE = 0.5  # percent of the samples, at either end

_EXPECTED = "a photograph is a PIL image or an array [H, W], [H, W, 3] or [H, W, 4]"


def rgb_of(picture: Any) -> NDArray[np.uint8]:
    """Turn a user's picture into the RGB pixels that everything else works on.

    - A PIL image is turned as its EXIF orientation says. Transparency is laid on white.
    - uint8 samples stay as they are; bool becomes 0 and 255.
    - Color as floats in [0, 1] is multiplied by 255, and color in [0, 255] of any type is rounded; so are gray
      integers of other types than uint16, as Python lists give them.
    - Everything else is wider than 8 bits and is stretched as files are, see :func:`stretched`.

    Args:
        picture: A PIL image, or an array, PyTorch tensor or nested list of shape [H, W], [H, W, 1] (gray), [H, W, 3],
            and [H, W, 2] or [H, W, 4] with alpha as the last channel. Channels may come first, as in [3, H, W].

    Returns:
        uint8 [H, W, 3]; an array of this kind is returned itself.

    Raises:
        InvalidImage: The shape or type is another, there are no pixels, or no sample is a finite number.
    """
    if isinstance(picture, Image.Image):
        try:
            return rgb_of_image(ImageOps.exif_transpose(picture))
        except (OSError, ValueError, SyntaxError) as error:
            raise InvalidImage(f"the PIL image cannot be made RGB: {error}") from error
    samples = _channels_last(_array(picture))
    channels = samples.shape[2]
    if samples.dtype == np.uint8 and channels == 3:
        return samples
    if channels in (1, 3):
        return np.ascontiguousarray(np.broadcast_to(_eight_bits(samples), (*samples.shape[:2], 3)))
    layers = np.concatenate([_eight_bits(samples[..., :-1]), _opacity(samples[..., -1:])], axis=2)
    return rgb_of_image(Image.fromarray(layers))


def rgb_of_image(image: Image.Image) -> NDArray[np.uint8]:
    """Convert an image of any mode to uint8 [H, W, 3], without turning it."""
    if image.mode in _WIDE_MODES:
        return np.repeat(stretched(np.asarray(image))[..., None], 3, axis=2)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def stretched(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Stretch samples of any range to 8 bits, by the range of all values but those that are both rare and isolated.

    Otherwise a few hot or dead pixels would take the whole range for themselves. The range is the larger one of two
    estimates at either end: the extremes after a median over 5×5 pixels, which removes single pixels and lines of two
    pixels, and all but the outer 0.5 % of the samples, which keeps thin or small objects. If this range is empty, as
    for a few bright dots on an even ground, the true extremes count.

    Args:
        samples: Real numbers [H, W], or [H, W, 3] with one range for all channels. NaN becomes 0.

    Returns:
        uint8 of the same shape; 0 everywhere if all samples are equal.

    Raises:
        InvalidImage: No sample is finite.
    """
    wide: NDArray[np.floating[Any]] = samples.astype(np.float32 if samples.dtype.itemsize < 4 else np.float64)
    known = np.isfinite(wide)
    if not known.any():
        raise InvalidImage("no sample of the photograph is a finite number")
    low, high = float(wide.min(where=known, initial=np.inf)), float(wide.max(where=known, initial=-np.inf))
    if high <= low:
        return np.zeros(samples.shape, np.uint8)
    unit = ((wide - low) / (high - low)).astype(np.float32)
    filled = unit if known.all() else np.where(known, unit, np.median(unit[known]))
    calm = cv2.medianBlur(filled, 5)
    usual_low, usual_high = np.percentile(filled, (_RARE, 100.0 - _RARE))
    low, high = min(float(calm.min()), float(usual_low)), max(float(calm.max()), float(usual_high))
    if high > low:
        unit = ((unit - low) / (high - low)).clip(0.0, 1.0)
    return np.asarray((np.nan_to_num(unit) * 255.0).round(), np.uint8)


def _array(picture: Any) -> NDArray[Any]:
    if isinstance(picture, str | bytes) or hasattr(picture, "__fspath__"):
        raise InvalidImage("a photograph is needed, not its file: open it with PIL.Image.open")
    try:
        # A PyTorch tensor may have a gradient or lie on an accelerator.
        samples = np.asarray(picture.detach().cpu() if hasattr(picture, "detach") else picture)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidImage(f"{_EXPECTED}, not this {type(picture).__name__}: {error}") from error
    if samples.dtype.kind not in "buif":
        raise InvalidImage(f"{_EXPECTED} of real numbers, not a {type(picture).__name__} of {samples.dtype}")
    return samples


def _channels_last(samples: NDArray[Any]) -> NDArray[Any]:
    """Convert any accepted shape to [H, W, channels]."""
    if samples.ndim == 2:
        samples = samples[..., None]
    elif samples.ndim == 3 and samples.shape[0] in (1, 3, 4) and samples.shape[2] > 4:
        samples = np.moveaxis(samples, 0, 2)
    if samples.ndim != 3 or not 1 <= samples.shape[2] <= 4 or not samples.size:
        raise InvalidImage(f"{_EXPECTED}, not of shape {list(samples.shape)}")
    return samples


def _eight_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert gray [H, W, 1] or color [H, W, 3] of any type to uint8 of the same shape."""
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype == np.bool_:
        return samples.astype(np.uint8) * 255
    is_color, is_float = samples.shape[2] == 3, samples.dtype.kind == "f"
    if is_color or not (is_float or samples.dtype == np.uint16):
        low, high = float(samples.min()), float(samples.max())
        if is_float and low >= 0.0 and high <= 1.0:
            return np.asarray((samples * 255.0).round(), np.uint8)
        if low >= 0.0 and high <= 255.0:
            return np.asarray(samples.round(), np.uint8)
    return stretched(samples if is_color else samples[..., 0]).reshape(samples.shape)


def _opacity(alpha: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert an alpha channel to uint8, from 0 to the largest value of its type (floats: 1 or 255)."""
    full = {"b": 1.0, "u": 255.0 if alpha.dtype.itemsize == 1 else 65535.0}.get(alpha.dtype.kind)
    if full is None:
        full = 1.0 if alpha.dtype.kind == "f" and float(alpha.max()) <= 1.0 else 255.0
    return np.asarray((np.nan_to_num(alpha / full) * 255.0).round().clip(0, 255), np.uint8)
