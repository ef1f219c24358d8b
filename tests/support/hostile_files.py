"""Image files that promise more than they hold, or unpack to more than they promise."""

from __future__ import annotations

import io
import struct
from typing import Any

from odd_files import SIGNATURE, chunk
from PIL import Image


def png_header(*more: bytes, width: int = 20_000, height: int = 10_000) -> bytes:
    """A PNG that promises a size and has no pixels, with further chunks after its header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return SIGNATURE + header + b"".join(more) + chunk(b"IDAT", b"")


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("L", (64, 48), 90).save(file, kind, **options)
    return file.getvalue()


def resized(data: bytes, at: int, pattern: str, width: int = 20_000, height: int = 10_000) -> bytes:
    """A file whose header was made to promise another size."""
    size = struct.pack(pattern, width, height)
    return data[:at] + size + data[at + len(size) :]


def tiff_header() -> bytes:
    """A TIFF with eight tags and one strip, but without pixels."""
    tags = [(256, 20_000), (257, 10_000), (258, 8), (259, 1), (262, 1), (273, 8), (278, 10_000), (279, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def jpeg_of_many_scans() -> bytes:
    """A progressive JPEG whose last scan, a few bytes long, is repeated 20,000 times."""
    data = saved("JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 20_000 + data[-2:]


JPEG_SIZE = saved("JPEG").index(b"\xff\xc0") + 5
