"""The tags of a TIFF, read at little cost; EXIF data are a TIFF too."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BYTE, _SHORT, _LONG, _RATIONAL = 1, 3, 4, 5

_SUBDIRECTORY = 0x8769  # EXIF's own tags


def bytes_of_tags(tiff: bytes) -> int:
    """Number of bytes that the tags of the first directory refer to (TIFF 6.0, section 2; BigTIFF).

    Thousands of tags may name the same bytes, and a reader would copy them for each tag. ``tiff`` is a whole file,
    from ``II`` or ``MM`` on; a broken one gives 0.
    """
    return sum(_SIZES.get(kind, 1) * count for _, kind, count, _ in _entries(tiff, None))


def numbers(tiff: bytes) -> dict[int, float]:
    """The first number of each tag in a TIFF's first directory and in the EXIF directory that it points to.

    Tags that do not hold a positive number, or whose value lies outside of the file, are left out.
    """
    found = dict(_numbers(tiff, None))
    if _SUBDIRECTORY in found:
        found.update(_numbers(tiff, int(found[_SUBDIRECTORY])))
    return found


def _numbers(tiff: bytes, start: int | None) -> Iterator[tuple[int, float]]:
    order = _order(tiff)
    for tag, kind, count, at in _entries(tiff, start):
        try:
            if kind == _RATIONAL and count:
                # A rational does not fit into an entry of a TIFF's directory, but one fits into a BigTIFF's.
                place = at if _is_big(tiff) and count == 1 else struct.unpack_from(f"{order}I", tiff, at)[0]
                above, below = struct.unpack_from(f"{order}II", tiff, place)
                yield tag, above / below
            elif (letter := {_BYTE: "B", _SHORT: "H", _LONG: "I"}.get(kind)) and count:
                if count * _SIZES[kind] > (8 if _is_big(tiff) else 4):
                    (at,) = struct.unpack_from(order + ("Q" if _is_big(tiff) else "I"), tiff, at)
                yield tag, float(struct.unpack_from(order + letter, tiff, at)[0])
        except (struct.error, ZeroDivisionError):
            continue


def _entries(tiff: bytes, start: int | None) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and the value's place for each entry of the directory at ``start``; None is the first one."""
    order = _order(tiff)
    offset, count, entry = ("8xQ", "Q", "HHQ") if _is_big(tiff) else ("4xI", "H", "HHI")
    try:
        if start is None:
            (start,) = struct.unpack_from(order + offset, tiff)
        (tags,) = struct.unpack_from(order + count, tiff, start)
    except struct.error:
        return
    start += struct.calcsize(order + count)
    value = struct.calcsize(order + entry)
    size = value + (8 if _is_big(tiff) else 4)
    there = min(tags, max(0, len(tiff) - start) // size)
    for at in range(start, start + there * size, size):
        yield (*struct.unpack_from(order + entry, tiff, at), at + value)


def _order(tiff: bytes) -> str:
    return ">" if tiff[:2] == b"MM" else "<"


def _is_big(tiff: bytes) -> bool:
    return tiff[2:4] in (b"+\0", b"\0+")
