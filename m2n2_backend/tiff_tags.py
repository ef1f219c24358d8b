"""What reading the tags of a TIFF would cost; EXIF data are one."""

from __future__ import annotations

import struct

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def bytes_of_tags(tiff: bytes) -> int:
    """Bytes that the tags of the first directory refer to (TIFF 6.0, section 2; BigTIFF).

    Nothing keeps thousands of tags from naming the same bytes, each of which a reader would copy.

    Args:
        tiff: A whole file, as it begins with ``II`` or ``MM``; a broken one refers to nothing.
    """
    order = ">" if tiff[:2] == b"MM" else "<"
    is_big = tiff[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("8xQ", "Q", "HHQ8x") if is_big else ("4xI", "H", "HHI4x")
    try:
        (start,) = struct.unpack_from(order + offset, tiff)
        (tags,) = struct.unpack_from(order + count, tiff, start)
    except struct.error:
        return 0
    start += struct.calcsize(order + count)
    size = struct.calcsize(order + entry)
    there = min(tags, max(0, len(tiff) - start) // size)
    entries = struct.iter_unpack(order + entry, memoryview(tiff)[start : start + there * size])
    return sum(_SIZES.get(kind, 1) * number for _, kind, number in entries)
