"""Codes of strokes, Label Studio's run-length code and PNG, → how opaque each pixel is.

A code of a few thousand bytes may claim any number of pixels. It must only be decoded once the image's size is known
from the image itself.
"""

from __future__ import annotations

import io
import mmap
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.errors import InvalidPrompt, M2N2Error
from m2n2_backend.images.png import SIGNATURE, essentials

MAX_WHOLE = 10_000_000
"""Most pixels of a PNG of another kind than browsers write."""

_CHANNELS = 4
_ALPHA_CHANNELS = {4: 2, 6: 4}  # channels by PNG's color types, the last one opacity
_BLOCK = 2**20
_HEAD = 32 + 5 + 4 * 4  # bits before the first run: count of values, bits of a value, four sizes of lengths


def alpha_of_code(code: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The last channel of Label Studio's run-length code, uint8 [height, width].

    :func:`m2n2_backend.worker.replica.rle.brush_rle` describes the format. The SDK's decoder makes a text of all bits
    and an array of all channels.
    """
    count = _CHANNELS * width * height
    if int.from_bytes(code[:4], "big") != count:
        raise InvalidPrompt(f"the stroke was not drawn on an image of {width}x{height} pixels")
    head = int.from_bytes(code[4:7].ljust(3, b"\0"), "big") >> 3
    if head >> 16 != 8 - 1:
        raise InvalidPrompt("the stroke's code cannot be read: its values must have 8 bits")
    sizes = [(head >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    alpha = _room(width * height)
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


def _room(count: int) -> NDArray[np.uint8]:
    """Zeros in memory that goes back to the system when it is freed; of other memory, a process keeps megabytes."""
    return np.frombuffer(mmap.mmap(-1, count), np.uint8)


def _copy(code: bytes, at: int, alpha: NDArray[np.uint8], place: int, length: int) -> None:
    """Copy values that are not a run: they stand one by one, from a bit of the code on."""
    for offset in range((_CHANNELS - 1 - place) % _CHANNELS, length, _CHANNELS):
        bit = at + 8 * offset
        two = int.from_bytes(code[bit >> 3 : (bit >> 3) + 2].ljust(2, b"\0"), "big")
        alpha[(place + offset) // _CHANNELS] = two >> (8 - (bit & 7)) & 255


def alpha_of_png(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The opacity of a PNG's pixels, uint8 [height, width].

    A PNG as browsers write it is read in blocks of rows. Others are decoded as a whole, up to ``MAX_WHOLE`` pixels.

    Raises:
        InvalidPrompt: It has another size, is damaged, or is of an unusual kind and too large for that.
    """
    try:
        lean, _ = essentials(data)
        wide, high, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", lean[16:29])
        if (wide, high) != (width, height):
            raise InvalidPrompt(f"the stroke was not drawn on an image of {width}x{height} pixels")
        if (depth, interlaced) == (8, 0) and color in _ALPHA_CHANNELS:
            return _alpha_by_rows(lean, width, height, _ALPHA_CHANNELS[color])
        if width * height > MAX_WHOLE:
            raise InvalidPrompt(
                f"the stroke's PNG must be RGBA with 8 bits, not interlaced, on an image of {width}x{height} pixels"
            )
        with Image.open(io.BytesIO(lean), formats=["PNG"]) as image:
            if image.size != (width, height):  # by a second header; nothing is decoded yet
                raise InvalidPrompt(f"the stroke was not drawn on an image of {width}x{height} pixels")
            return np.array(image.convert("RGBA").getchannel("A"))
    except M2N2Error as error:
        raise InvalidPrompt(str(error)) from error
    except Exception as error:
        # A damaged file may raise nearly anything in a decoder.
        raise InvalidPrompt("the stroke's PNG cannot be read") from error


def _alpha_by_rows(data: bytes, width: int, height: int, channels: int) -> NDArray[np.uint8]:
    """The last of a PNG's channels. PNG filters each channel by itself, so that the others can be left out."""
    alpha = _room(width * height).reshape(height, width)
    above = np.zeros((1, 1 + width), np.uint8)  # a row begins with the name of its filter: none
    line = 1 + channels * width
    step = max(1, _BLOCK // line)
    inflate, rest = zlib.decompressobj(), b"".join(_bodies(data))
    for top in range(0, height, step):
        rows = min(step, height - top)
        raw = inflate.decompress(rest, rows * line)
        rest = inflate.unconsumed_tail
        lines = np.frombuffer(raw, np.uint8).reshape(rows, line)
        filtered = np.concatenate((lines[:, :1], lines[:, channels::channels]), axis=1)
        alpha[top : top + rows] = _unfiltered(np.concatenate((above, filtered)))[1:]
        above[0, 1:] = alpha[top + rows - 1]
    return alpha


def _bodies(data: bytes) -> Iterator[bytes]:
    """The parts of a PNG's compressed pixels."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            yield data[at + 8 : at + 8 + length]
        at += 12 + length


def _unfiltered(lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the filters of one channel's rows, each behind its filter's name: Pillow reads them as a gray PNG."""
    head = struct.pack(">IIBBBBB", lines.shape[1] - 1, lines.shape[0], 8, 0, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 0)
    file = SIGNATURE + _chunk(b"IHDR" + head) + _chunk(b"IDAT" + body) + _chunk(b"IEND")
    with Image.open(io.BytesIO(file), formats=["PNG"]) as image:
        return np.asarray(image)


def _chunk(named: bytes) -> bytes:
    return struct.pack(">I", len(named) - 4) + named + struct.pack(">I", zlib.crc32(named))
