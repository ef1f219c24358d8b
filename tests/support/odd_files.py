"""Image files that browsers show although something in them is unusual, large, damaged or missing."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGE = bytes(100_000_000)


def pixels(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A gradient without equal rows, uint8 [H, W, 3]."""
    row, column = np.mgrid[:height, :width]
    return np.stack([column * 4, row * 5, (row + column) * 2], axis=-1).astype(np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(pixels())).save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(*before: bytes, after: bytes = b"", image: bytes | None = None) -> bytes:
    """A PNG with further chunks before and after its pixels."""
    image = image or encoded("PNG")
    first, last = len(SIGNATURE) + 25, image.index(b"IEND") - 4
    return image[:first] + b"".join(before) + image[first:last] + after + image[last:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def jpeg(*segments: bytes, image: bytes | None = None) -> bytes:
    """A JPEG with further segments right after its start."""
    image = image or encoded("JPEG", quality=95)
    return image[:2] + b"".join(segments) + image[2:]


def exif(
    orientation: int | None = None,
    resolution: tuple[float, float] | None = (144, 144),
    unit: int | None = 2,
    shown: tuple[int, int] | None = (32, 24),
) -> Image.Exif:
    """EXIF data that ask for half the size of a picture of 64×48, unless told otherwise."""
    tags = Image.Exif()
    for tag, value in ((0x0112, orientation), (0x0128, unit)):
        if value is not None:
            tags[tag] = value
    if resolution is not None:
        tags[0x011A], tags[0x011B] = resolution
    if shown is not None:
        own = tags.get_ifd(0x8769)
        own[0xA002], own[0xA003] = shown
    return tags


def many_tags(count: int, size: int) -> bytes:
    """EXIF data whose tags all name the same bytes."""
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 7, size, 8) for tag in range(count))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", count) + entries + bytes(4) + bytes(size)


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def whole() -> dict[str, bytes]:
    """Complete files, whose pixels are those of :func:`pixels`."""
    palette = Image.fromarray(pixels()).quantize(64)
    return {
        "PNG with a text of 5 MB": png(chunk(b"tEXt", b"k\0" + b"x" * 5_000_000)),
        "PNG whose comment unfolds to 100 MB": png(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LARGE))),
        "PNG whose iTXt unfolds to 100 MB": png(chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(LARGE))),
        "PNG whose profile unfolds to 100 MB": png(chunk(b"iCCP", b"x\0\0" + zlib.compress(LARGE))),
        "PNG with a damaged profile": png(chunk(b"iCCP", b"x\0\5hello")),
        "PNG with a wrong checksum of its text": png(chunk(b"tEXt", b"k\0hello", 1)),
        "PNG with short chunks": png(*(chunk(name, b"") for name in (b"gAMA", b"cHRM", b"sRGB", b"pHYs"))),
        "PNG with damaged text behind its pixels": png(after=chunk(b"zTXt", b"a\0\7bad")),
        "PNG with damaged EXIF": png(chunk(b"eXIf", b"garbage!")),
        "PNG with a wrong checksum of its EXIF": png(chunk(b"eXIf", exif(6).tobytes()[6:], 1)),
        "PNG with EXIF of many tags": png(chunk(b"eXIf", many_tags(2000, 20_000))),
        "PNG with a wrong checksum of its transparency": png(chunk(b"tRNS", bytes(6), 1)),
        "PNG with too short a transparency": png(chunk(b"tRNS", b"ab")),
        "PNG without an end": encoded("PNG")[:-12],
        "PNG with junk behind it": encoded("PNG") + b"junk" * 100,
        "JPEG with damaged EXIF": jpeg(segment(0xE1, b"Exif\0\0garbage")),
        "JPEG with EXIF of many tags": jpeg(segment(0xE1, b"Exif\0\0" + many_tags(1000, 20_000))),
        "JPEG with a damaged profile": jpeg(segment(0xE2, b"ICC_PROFILE\0")),
        "JPEG with damaged further pictures": jpeg(segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff")),
        "JPEG with damaged Photoshop data": jpeg(segment(0xED, b"Photoshop 3.0\x008BIM\4\4")),
        "JPEG with a short Adobe mark": jpeg(segment(0xEE, b"Adobe")),
        "JPEG with a comment": jpeg(segment(0xFE, b"hello")),
        "JPEG with junk between": (lambda data: data[:20] + b"\0\0junk" + data[20:])(encoded("JPEG", quality=95)),
        "JPEG with junk behind it": encoded("JPEG", quality=95) + b"x" * 1000,
        "JPEG of RGB": encoded("JPEG", quality=95, keep_rgb=True),
        "JPEG of CMYK": encoded("JPEG", Image.fromarray(pixels()).convert("CMYK"), quality=95),
        "progressive JPEG": encoded("JPEG", quality=95, progressive=True),
        "AVIF": encoded("AVIF", quality=100),
        "lossless WebP": encoded("WEBP", lossless=True),
        "animated WebP": encoded("WEBP", lossless=True, save_all=True, append_images=[palette]),
        "animated PNG": encoded("PNG", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
    }


def sized() -> dict[str, tuple[bytes, tuple[int, int]]]:
    """Files that a browser shows, or might show, at another size than their 64×48 pixels; and that size."""
    made = {
        "JPEG of double density": (encoded("JPEG", exif=exif()), (32, 24)),
        "JPEG of double density, turned": (encoded("JPEG", exif=exif(6)), (24, 32)),
        "JPEG of another density across": (encoded("JPEG", exif=exif(None, (144, 72), shown=(32, 48))), (32, 48)),
        "JPEG of half the density": (encoded("JPEG", exif=exif(None, (36, 36), shown=(128, 96))), (128, 96)),
        "JPEG whose size is rounded": (encoded("JPEG", exif=exif(None, (100, 100), shown=(46, 35))), (46, 35)),
        "JPEG whose size was cut, not rounded": (
            encoded("JPEG", exif=exif(None, (100, 100), shown=(46, 34))),
            (64, 48),
        ),
        "JPEG of pixels for each centimeter": (encoded("JPEG", exif=exif(unit=3)), (64, 48)),
        "JPEG that names no size": (encoded("JPEG", exif=exif(shown=None)), (64, 48)),
        "JPEG that names another size": (encoded("JPEG", exif=exif(shown=(33, 24))), (64, 48)),
        "JPEG of no resolution": (encoded("JPEG", exif=exif(resolution=(0, 0))), (64, 48)),
        "JPEG of big-endian EXIF": (
            jpeg(segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")),
            (48, 64),
        ),
        "JPEG of two orientations": (
            jpeg(*(segment(0xE1, exif(number, None, None, None).tobytes()) for number in (6, 3))),
            (48, 64),
        ),
    }
    for kind, turned in (("PNG", (48, 64)), ("AVIF", (48, 64)), ("WEBP", (64, 48))):
        made[f"{kind} of double density"] = encoded(kind, exif=exif()), (64, 48)
        made[f"{kind}, turned"] = encoded(kind, exif=exif(6)), turned
    return made


def cut_off() -> dict[str, tuple[bytes, bytes]]:
    """Files of which a part is missing, and the complete files; browsers show the part that is there."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    baseline, progressive = (encoded("JPEG", noise, quality=95, progressive=each) for each in (False, True))
    image = encoded("PNG", noise)
    return {
        "PNG cut off": (_cut(image, 0.6), image),
        "BMP cut off": (_cut(encoded("BMP", noise), 0.6), encoded("BMP", noise)),
        "GIF cut off": (_cut(encoded("GIF", noise, interlace=0), 0.6), encoded("GIF", noise, interlace=0)),
        "PNG of too few rows": (_rows(image, 0.5), image),
        "JPEG cut off": (_cut(baseline, 0.6), baseline),
        "JPEG without an end": (baseline[:-2], baseline),
        "progressive JPEG cut off": (_cut(progressive, 0.6), progressive),
        "progressive JPEG without an end": (progressive[:-2], progressive),
        "progressive JPEG cut off in a table": (progressive[: progressive.rindex(b"\xff\xc4") + 8], progressive),
        "progressive JPEG cut off before a scan": (progressive[: progressive.rindex(b"\xff\xda") + 5], progressive),
    }


def _rows(image: bytes, share: float) -> bytes:
    """A PNG with a proper end but only a share of its rows."""
    start = image.index(b"IDAT")
    length = int.from_bytes(image[start - 4 : start], "big")
    rows = zlib.decompress(image[start + 4 : start + 4 + length])
    return image[: start - 4] + chunk(b"IDAT", zlib.compress(_cut(rows, share))) + chunk(b"IEND", b"")


def color_of_16_bits() -> bytes:
    """A PNG of 16 bits whose upper bytes are :func:`pixels`."""
    rows = (pixels().astype(np.uint16) * 256 + 77).astype(">u2")
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
