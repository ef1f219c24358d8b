"""PNG files without what their pixels do not need."""

from __future__ import annotations

import zlib

from m2n2_backend.errors import ImageTooLarge

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_CHUNKS = 100_000
"""Most chunks of a file; encoders write one for every few thousand bytes, and each costs time however short it is."""

_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_TRANSPARENCY = {
    0: (2, 2),
    2: (6, 6),
    3: (1, 256),
}  # least and most bytes by color type; others have an alpha channel


def essentials(data: bytes) -> tuple[bytes, bytes]:
    """A file as a browser sees it: without comments, color profiles and frames of an animation.

    Pillow unfolds and checks all of them, and gives up the picture where one is large or damaged. Browsers pass over
    what they cannot use.

    Args:
        data: Begins with ``SIGNATURE``; it may end early.

    Returns:
        The same picture in fewer chunks, and its EXIF data (``II…`` or ``MM…``), empty where none stand before
        the pixels.

    Raises:
        ImageTooLarge: More than ``MAX_CHUNKS``.
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
    """Whether a chunk, from its name on, has the checksum that it ends with."""
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:], "big")
