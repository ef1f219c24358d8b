"""Images that need no network: in a data URL, or on a disk this server shares with Label Studio."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from m2n2_backend.errors import ImageNotAllowed, ImageTooLarge, ImageUnavailable, InvalidImage

_BLANK = b" \t\n\r\f"  # of which the first four may be escaped
_PART = 65536


def from_data_url(url: str, limit: int) -> bytes:
    """The bytes in a ``data:`` address, read as browsers read it.

    Raises:
        InvalidImage: It says base64 and is not.
        ImageTooLarge: More than ``limit`` bytes.
    """
    for blank in "\t\n\r":
        url = url.replace(blank, "")
    head, comma, payload = url.partition("#")[0].partition(",")
    if not comma:
        raise InvalidImage("the image's data URL holds no data: expected data:image/...;base64,...")
    too_large = ImageTooLarge(f"the image's data URL is larger than the limit of {limit} bytes")
    # Four characters hold three bytes, and each of them may be written as three (%2B).
    if len(payload) // 4 > limit:
        raise too_large
    data = _unescaped(payload.encode("utf-8", "surrogatepass"))
    if re.search(r"; *base64 *$", head, re.IGNORECASE):
        data = _from_base64(data.translate(None, _BLANK))
    if len(data) > limit:
        raise too_large
    return data


def _from_base64(text: bytes) -> bytes:
    """What browsers take: with all of the padding, or with none of it."""
    bare = text if len(text) % 4 else text.removesuffix(b"=").removesuffix(b"=")
    try:
        if b"=" in bare:
            raise ValueError("it contains a = before its end")
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"the image's data URL cannot be decoded as base64: {error}") from error


def _unescaped(text: bytes) -> bytes:
    """Text without its escapes (``%41``), some at a time: millions of them at once would take gigabytes."""
    if b"%" not in text:
        return text
    parts, start = [], 0
    while start < len(text):
        end = start + _PART
        # An escape is not cut in two.
        cut = text.rfind(b"%", end - 2, end)
        end = cut if cut > start else end
        parts.append(unquote_to_bytes(text[start:end]))
        start = end
    return b"".join(parts)


def from_disk(root: Path, relative: str, limit: int) -> bytes:
    """A file below ``root``; links are followed before it is decided whether it lies there.

    Backslashes are slashes, as Windows writes paths, unless a file has that very name.

    Raises:
        ImageNotAllowed: It lies elsewhere.
        ImageTooLarge: More than ``limit`` bytes.
        ImageUnavailable: No such file, or it cannot be read.
    """
    name = relative[:80]
    try:
        base = root.resolve(strict=True)
        for spelled in (relative, relative.replace("\\", "/")):
            path = (base / spelled).resolve()
            if not path.is_relative_to(base):
                raise ImageNotAllowed(f"the image's path {name!r} leads out of M2N2_LOCAL_FILES_ROOT")
            if path.is_file():
                break
        else:
            raise ImageUnavailable(f"no file {name!r} below M2N2_LOCAL_FILES_ROOT")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageUnavailable(f"the file {name!r} below M2N2_LOCAL_FILES_ROOT cannot be read") from error
    if len(data) > limit:
        raise ImageTooLarge(f"image file is larger than the limit of {limit} bytes (M2N2_MAX_IMAGE_BYTES)")
    return data
