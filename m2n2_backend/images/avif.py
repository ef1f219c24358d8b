"""AVIF files without their EXIF data."""

from __future__ import annotations

_DESCRIPTIONS = (b"meta", b"moov")


def essentials(data: bytes) -> bytes:
    """The file with its EXIF data renamed, so that readers ignore them.

    Pillow reads all of their tags, and thousands of tags may name the same bytes. Browsers ignore the EXIF data of an
    AVIF, as the properties of its picture say how it is turned.
    """
    position, mended = 0, bytearray(data)
    while position + 8 <= len(data):
        size, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        end = position + size if size else len(data)
        if end < position + 8:
            break
        if name in _DESCRIPTIONS:
            mended[position:end] = data[position:end].replace(b"Exif", b"free")
        position = end
    return bytes(mended)
