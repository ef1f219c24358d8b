"""The format of a file by its first bytes; what a server or a file name says does not count."""

from __future__ import annotations

import re

from m2n2_backend.images import jpeg, png

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"\0\0[\x01\x02]\0[^\0]", "a Windows icon: save it as PNG"),
    (rb"%PDF", "a PDF document: export its pages as PNG"),
    (rb"%!PS", "a PostScript document: export it as PNG"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC photograph, which most browsers cannot show either: save it as JPEG"),
    (rb"....ftyp", "a video: take its frames out as PNG or JPEG"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image: save it as PNG"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image: save it as PNG or JPEG"),
    (rb"8BPS", "a Photoshop document: export it as PNG"),
    (rb"v/1\x01", "an OpenEXR image: save it as 8-bit or 16-bit PNG"),
    (rb"qoif", "a QOI image: save it as PNG"),
    (rb"DDS ", "a DDS texture: save it as PNG"),
    (rb"\x93NUMPY", "a NumPy array: save it as PNG"),
    (rb"\x89HDF", "an HDF5 file: save its picture as PNG"),
    (rb".{128}DICM", "a DICOM file: export it as 8-bit or 16-bit PNG"),
    (rb"PK\x03\x04", "a ZIP archive: unpack it"),
    (rb"\x1f\x8b", "a gzip archive: unpack it, or let the server say Content-Encoding: gzip"),
    (rb"version https://git-lfs", "a pointer of Git LFS in place of a file: fetch the file with git lfs pull"),
)

_MARKUP = re.compile(
    rb"\s*<(?:[?!].{0,4000}?<)?\s*(?:[\w.-]+:)?(svg|html|head|body|title|meta|script|\w*)\b", re.I | re.S
)
_PAGE = (b"html", b"head", b"body", b"title", b"meta", b"script")


def format_of(data: bytes) -> str | None:
    """The name of the file's format if it is one that is opened, else None."""
    if data.startswith(jpeg.SIGNATURE):
        return "JPEG"
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data.startswith(_TIFF):
        return "TIFF"
    if data[4:8] == b"ftyp" and {b"avif", b"avis"} & _brands(data):
        return "AVIF"
    # The two letters may also begin a text; the four zeros are a reserved field of BMP.
    return "BMP" if data[:2] == b"BM" and data[6:10] == bytes(4) else None


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in a WebP's first chunk, 14 or 24 bits each (RFC 9649); arbitrary for a broken file."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def refusal(data: bytes, formats: tuple[str, ...]) -> str:
    """Says what a file is that is not opened, and what to do with it; ``formats`` names those that are."""
    if not data.strip(b"\0 \t\r\n"):
        return "not an image: the file is empty" if not data else "not an image: the file holds nothing but zeros"
    text = _text_of(data)
    if (found := _MARKUP.match(text)) is not None:
        name = found[1].lower()
        if name == b"svg":
            return "not an image of pixels but an SVG drawing: export it as PNG"
        if name in _PAGE:
            return "not an image but a web page: check that the address leads to the file itself"
        return "not an image but an XML document, such as a storage's error: open the address to read it"
    if text[:1] in (b"{", b"["):
        return "not an image but JSON, such as a server's error: open the address to read it"
    for pattern, what in _OTHERS:
        if re.match(pattern, data[:200], re.S):
            return f"not an image that can be read but {what}"
    return f"not an image of the formats {', '.join(formats)}: save it as PNG"


def _brands(data: bytes) -> set[bytes]:
    """The brands that an ISO media file names: its major brand and the compatible ones."""
    length = min(int.from_bytes(data[:4], "big"), 256)
    return {data[at : at + 4] for at in range(8, length - 3, 4) if at != 12}


def _text_of(data: bytes) -> bytes:
    """The file's beginning read as text, without byte order mark and white space."""
    start = data[:8192]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        start = start[2:].replace(b"\0", b"")
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()
