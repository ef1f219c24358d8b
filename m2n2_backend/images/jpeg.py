"""JPEG files without what their pixels do not need, and those that end too early."""

from __future__ import annotations

import re
from collections.abc import Iterator

from m2n2_backend.errors import ImageTooLarge

SIGNATURE = b"\xff\xd8\xff"

MAX_SCANS = 100
"""Most passes over the pixels; progressive files have about ten, and one more may cost 14 bytes."""

_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE
_APPLICATIONS = range(0xE0, 0xF0)
_EXIF = b"Exif\0\0"
# These two say which colors the pixels are in; a decoder takes no shorter ones.
_COLOR = {0xE0: (b"JFIF\0", 16), 0xEE: (b"Adobe", 14)}
# Within the pixels 0xFF is followed by zero or by a restart, else it begins a segment.
_SEGMENT = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")


def essentials(data: bytes) -> tuple[bytes, bytes]:
    """A file without comments, color profiles, previews and further pictures, on which Pillow may stumble.

    Args:
        data: Begins with ``SIGNATURE``; it may end early.

    Returns:
        The same picture, and its EXIF data (``II…`` or ``MM…``), empty where there are none.
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
    """Count the scans.

    Raises:
        ImageTooLarge: More than ``MAX_SCANS``.
    """
    if data.count(bytes((0xFF, _SCAN))) <= MAX_SCANS:
        return  # a search is much faster than a walk, but finds those of a preview too
    scans = 0
    for marker, _, _ in _segments(data):
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise ImageTooLarge(f"JPEG with more than {MAX_SCANS} scans: save it again, or as PNG")


def completed(data: bytes) -> bytes:
    """A file that was cut off, with an end: a decoder then paints what had arrived.

    What comes last may be a table that was cut off itself; it goes.
    """
    last = len(data)
    for _, start, end in _segments(data):
        if end > len(data):
            last = start
    return data[:last] + bytes((0xFF, _END))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment until the picture's end; pixels lie between them."""
    position = 2
    while (segment := _SEGMENT.search(data, position)) is not None:
        marker, start, body = segment[1][0], segment.start(), segment.end()
        position = body if marker == _END else body + int.from_bytes(data[body : body + 2], "big")
        yield marker, start, position
        if marker == _END:
            return
