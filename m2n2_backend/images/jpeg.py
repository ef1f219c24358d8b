"""JPEG files: reduced to what their pixels need, and completed if they end too early."""

from __future__ import annotations

import re
from collections.abc import Iterator

from m2n2_backend.errors import ImageTooLarge

SIGNATURE = b"\xff\xd8\xff"

MAX_SCANS = 100
"""Largest number of scans: progressive files have about ten, and 14 bytes can make a decoder pass over all pixels."""

_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE
_APPLICATIONS = range(0xE0, 0xF0)
_EXIF = b"Exif\0\0"
# These two segments name the color space of the pixels; decoders ignore them if they are shorter.
_COLOR = {0xE0: (b"JFIF\0", 16), 0xEE: (b"Adobe", 14)}
# Within the pixels 0xFF is followed by zero or by a restart marker; otherwise it begins a segment.
_SEGMENT = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")


def essentials(data: bytes) -> tuple[bytes, bytes]:
    """The file without comments, color profiles, previews and further pictures, which may confuse Pillow.

    Args:
        data: A file that begins with ``SIGNATURE`` and may end early.

    Returns:
        The same picture, and its EXIF data (``II…`` or ``MM…``), which may be empty.
    """
    exif = b""
    kept = [data[:2]]
    for marker, start, end in _segments(data):
        if marker in (_SCAN, _END):
            return b"".join([*kept, memoryview(data)[start:]]), exif
        body = data[start + 4 : min(end, start + 20)]
        if marker == 0xE1 and body.startswith(_EXIF) and not exif:
            exif = data[start + 4 + len(_EXIF) : end]
        name, least = _COLOR.get(marker, (b"", 0))
        is_needed = marker not in _APPLICATIONS if not name else body.startswith(name) and end - start - 2 >= least
        if is_needed and marker != _COMMENT:
            kept.append(data[start:end])
    return b"".join(kept), exif


def require_few_scans(data: bytes) -> None:
    """Raise ``ImageTooLarge`` if there are more than ``MAX_SCANS`` scans."""
    if data.count(bytes((0xFF, _SCAN))) <= MAX_SCANS:
        return  # this search is much faster than the walk below, but also finds the scans of a preview
    scans = 0
    for marker, _, _ in _segments(data):
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise ImageTooLarge(f"JPEG with more than {MAX_SCANS} scans: save it again, or as PNG")


def completed(data: bytes) -> bytes:
    """The file with an end marker, so that a decoder paints what is there of a file that was cut off.

    A last segment that was itself cut off is removed.
    """
    last = len(data)
    for _, start, end in _segments(data):
        if end > len(data):
            last = start
    return data[:last] + bytes((0xFF, _END))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the picture's end; the pixels lie between segments."""
    position = 2
    while (segment := _SEGMENT.search(data, position)) is not None:
        marker, start, body = segment[1][0], segment.start(), segment.end()
        position = body if marker == _END else body + int.from_bytes(data[body : body + 2], "big")
        yield marker, start, position
        if marker == _END:
            return
