"""Codes of strokes, Label Studio's run-length code and PNG, → how opaque each pixel is.

A code is a few thousand bytes and may say that it has any number of pixels, so that nobody should decode one whose
image's size is not known from the image itself.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.errors import InvalidPrompt, M2N2Error
from m2n2_backend.images.png import SIGNATURE, essentials

_CHANNELS = 4
_HEAD = 32 + 5 + 4 * 4  # bits before the first run: count of values, bits of a value, four sizes of lengths


def alpha_of_code(code: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The last channel of Label Studio's run-length code, uint8 [height, width].

    The format is told in :func:`m2n2_backend.worker.rle.brush_rle`. The SDK's decoder makes a text of all bits and an
    array of all channels.

    Raises:
        InvalidPrompt: It is of an image of another size, or is damaged.
    """
    count = _CHANNELS * width * height
    if int.from_bytes(code[:4], "big") != count:
        raise InvalidPrompt(f"the stroke is none on an image of {width}x{height} pixels")
    head = int.from_bytes(code[4:7].ljust(3, b"\0"), "big") >> 3
    if head >> 16 != 8 - 1:
        raise InvalidPrompt("the stroke's code cannot be read: its values must have 8 bits")
    sizes = [(head >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    alpha = np.zeros(width * height, np.uint8)
    place, at = 0, _HEAD
    while place < count:
        # From the next bit on, 33 bits: more than the 27 of a whole run.
        bits = int.from_bytes(code[at >> 3 : (at >> 3) + 5].ljust(5, b"\0"), "big") << (at & 7) & 0xFFFFFFFFFF
        size = sizes[bits >> 37 & 3]
        length = (bits >> (37 - size) & ((1 << size) - 1)) + 1
        at += 3 + size
        if bits >> 39:
            at += 8
            alpha[place // _CHANNELS : (place + length) // _CHANNELS] = bits >> (29 - size) & 255
        else:
            at += 8 * length
            _copy(code, at - 8 * length, alpha, place, min(length, count - place))
        if at > 8 * len(code):
            raise InvalidPrompt("the stroke's code ends too early")
        place += length
    return alpha.reshape(height, width)


def _copy(code: bytes, at: int, alpha: NDArray[np.uint8], place: int, length: int) -> None:
    """Values that stand one by one, from a bit of the code on."""
    for offset in range((_CHANNELS - 1 - place) % _CHANNELS, length, _CHANNELS):
        bit = at + 8 * offset
        two = int.from_bytes(code[bit >> 3 : (bit >> 3) + 2].ljust(2, b"\0"), "big")
        alpha[(place + offset) // _CHANNELS] = two >> (8 - (bit & 7)) & 255


def alpha_of_png(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The opacity of a PNG's pixels, uint8 [height, width].

    Raises:
        InvalidPrompt: It is of an image of another size, or is damaged.
    """
    try:
        if not data.startswith(SIGNATURE):
            raise InvalidPrompt("the stroke's PNG cannot be read")
        lean, _ = essentials(data)
        with Image.open(io.BytesIO(lean), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise InvalidPrompt(f"the stroke is none on an image of {width}x{height} pixels")
            whole = image if "A" in image.getbands() else image.convert("RGBA")
            return np.asarray(whole.getchannel("A"))
    except M2N2Error as error:
        raise InvalidPrompt(str(error)) from error
    except Exception as error:
        # A damaged file may raise nearly anything in a decoder.
        raise InvalidPrompt("the stroke's PNG cannot be read") from error
