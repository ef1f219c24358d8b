"""PNG files, reduced to what their pixels need."""

from __future__ import annotations

import zlib

from m2n2_backend.errors import ImageTooLarge

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_CHUNKS = 100_000
"""Largest number of chunks. Encoders write one for every few thousand bytes, and even a short chunk costs time."""

_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# Least and most bytes by color type; the other types have an alpha channel.
_TRANSPARENCY = {0: (2, 2), 2: (6, 6), 3: (1, 256)}


def essentials(data: bytes) -> tuple[bytes, bytes]:
    """The file as a browser sees it: without comments, color profiles and frames of an animation.

    Pillow unpacks and checks all of them, and refuses the picture if one is large or damaged. Browsers ignore what
    they cannot use.

    Args:
        data: A file that begins with ``SIGNATURE`` and may end early.

    Returns:
        The same picture in fewer chunks, and its EXIF data (``II…`` or ``MM…``), empty if there are none before the
        pixels.

    Raises:
        ImageTooLarge: There are more than ``MAX_CHUNKS`` chunks.
    """
    view, exif = memoryview(data), b""
    kept: list[bytes | memoryview] = [SIGNATURE]
    position = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        length, name = int.from_bytes(view[position : position + 4], "big"), data[position + 4 : position + 8]
        body, position = position + 8, position + 12 + length
        if name in _KEPT:
            kept.append(view[body - 8 : position])
        elif name == b"tRNS" and _is_whole(view[body - 4 : position]):
            least, most = _TRANSPARENCY.get(data[25], (1, 0))
            if least <= length <= most:
                kept.append(view[body - 8 : position])
        elif name == b"eXIf" and kept[-1][4:8] != b"IDAT" and _is_whole(view[body - 4 : position]):
            exif = data[body : body + length]
        if name == b"IEND" or position >= len(data):
            return b"".join(kept), exif
    raise ImageTooLarge(f"PNG of more than {MAX_CHUNKS} chunks: save it again")


def _is_whole(chunk: memoryview) -> bool:
    """Whether the checksum at a chunk's end is that of the chunk, which is given from its name on."""
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:], "big")
