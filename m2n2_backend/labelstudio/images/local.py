"""Images that need no network: in a data URL, or on a disk this server shares with Label Studio."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from m2n2_backend.errors import ImageNotAllowed, ImageTooLarge, ImageUnavailable, InvalidImage

_ESCAPES = {"%2B": "+", "%2b": "+", "%2F": "/", "%2f": "/", "%3D": "=", "%3d": "="}


def from_data_url(url: str, limit: int) -> bytes:
    """The bytes in a ``data:…;base64,…`` address.

    Raises:
        InvalidImage: It is not base64.
        ImageTooLarge: More than ``limit`` bytes.
    """
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidImage("the image's data URL is not base64: expected data:image/...;base64,...")
    too_large = ImageTooLarge(f"the image's data URL is larger than the limit of {limit} bytes")
    # Four characters hold three bytes, and each of them may be written as three (%2B).
    if len(payload) // 4 > limit:
        raise too_large
    # Letters and digits need no escape, and millions of escapes one by one would take gigabytes.
    for escape, character in _ESCAPES.items():
        payload = payload.replace(escape, character)
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"the image's data URL cannot be decoded: {error}") from error
    if len(data) > limit:
        raise too_large
    return data


def from_disk(root: Path, relative: str, limit: int) -> bytes:
    """A file below ``root``; links are followed before it is decided whether it lies there.

    Raises:
        ImageNotAllowed: It lies elsewhere.
        ImageTooLarge: More than ``limit`` bytes.
        ImageUnavailable: No such file, or it cannot be read.
    """
    name = relative[:80]
    try:
        base = root.resolve(strict=True)
        path = (base / relative).resolve()
        if not path.is_relative_to(base):
            raise ImageNotAllowed(f"the image's path {name!r} leads out of M2N2_LOCAL_FILES_ROOT")
        if not path.is_file():
            raise ImageUnavailable(f"no file {name!r} below M2N2_LOCAL_FILES_ROOT")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageUnavailable(f"the file {name!r} below M2N2_LOCAL_FILES_ROOT cannot be read") from error
    if len(data) > limit:
        raise ImageTooLarge(f"image file is larger than the limit of {limit} bytes (M2N2_MAX_IMAGE_BYTES)")
    return data
