"""Compressed answers of servers that were asked not to compress, unfolded no further than a limit."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from m2n2_backend.errors import ImageTooLarge, InvalidImage

_READ = {"gzip", "x-gzip", "deflate"}
_NOT_READ = {"br", "zstd"}
_MOST_STEPS = 4
_PADDING = 2**20  # bytes that may unfold to nothing: each of them is work
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


def unfolded(parts: Iterable[bytes], encoding: str, limit: int) -> Iterator[bytes]:
    """The parts of a body without what ``Content-Encoding`` says was done to them.

    As browsers do, a header that holds anything else than ``gzip`` and ``deflate`` is passed over: it then says
    nothing of compression (``utf-8``, ``aws-chunked``, nothing at all). A body may end early.

    Args:
        limit: Most bytes of the body at each step.

    Raises:
        ImageTooLarge: More than ``limit`` bytes; no more than that is ever unfolded.
        InvalidImage: The body is not what the header says, or compressed by what is not read here, or it takes more
            bytes than what it unfolds to.
    """
    names = [name.strip().lower() for name in encoding.split(",")]
    if set(names) <= _READ | _NOT_READ and _NOT_READ & set(names):
        raise InvalidImage(
            f"the image's server compresses images ({encoding[:40]}) although it is asked not to: switch that off"
        )
    if set(names) <= _READ:
        if len(names) > _MOST_STEPS:
            raise InvalidImage(f"the image's server compresses the image {len(names)} times: switch that off")
        for name in reversed(names):
            parts = _unfolded(parts, name, limit)
    yield from _within(parts, limit)


def _unfolded(parts: Iterable[bytes], name: str, limit: int) -> Iterator[bytes]:
    decoder = None
    taken = given = 0
    for part in _within(parts, limit):
        taken += len(part)
        if taken > _PADDING + 2 * given:
            raise InvalidImage(
                f"the image's server compresses ({name}) the image to more bytes than it has: switch that off"
            )
        if decoder is None and part:
            # Servers send "deflate" with or without the header of zlib, which its first byte shows.
            decoder = zlib.decompressobj(_GZIP if name != "deflate" else _ZLIB if part[0] & 15 == 8 else _RAW)
        while decoder is not None and part and not decoder.eof:
            try:
                piece = decoder.decompress(part, 2**20)
            except zlib.error as error:
                raise InvalidImage(
                    f"the image's server says that it is compressed ({name}), which it is not, or it is damaged"
                ) from error
            given += len(piece)
            yield piece
            part = decoder.unconsumed_tail


def _within(parts: Iterable[bytes], limit: int) -> Iterator[bytes]:
    left = limit
    for part in parts:
        left -= len(part)
        if left < 0:
            raise ImageTooLarge(f"image file is larger than the limit of {limit} bytes (M2N2_MAX_IMAGE_BYTES)")
        yield part
