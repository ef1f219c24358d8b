"""Files of a zip or tar archive, none of which decides where it is written."""

from __future__ import annotations

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from m2n2_backend.errors import DatasetError

MOST_FILE = 64 * 1024**2
"""Bytes of one unpacked file; the largest photographs have two megabytes."""

MOST_FILES = 100_000
"""SBD has 34,000."""

_NAME = re.compile(r"[\w#()+-][\w#.()+ -]{0,120}")


def files_of(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Path and content of each regular file; hidden ones and those of macOS are passed over.

    A path's name is safe to write to. Its folders may be anything, ``..`` too.

    Args:
        archive: A zip file, or a tar file of any compression.

    Raises:
        DatasetError: Neither of them, damaged, or larger than ``MOST_FILE`` or ``MOST_FILES`` say.
    """
    try:
        for number, (path, file) in enumerate(_zipped(archive) if zipfile.is_zipfile(archive) else _tarred(archive)):
            pure = PurePosixPath(path)
            if number >= MOST_FILES:
                raise DatasetError(f"{archive} holds more than {MOST_FILES} files: it is not the data set")
            if "__MACOSX" in pure.parts or not _NAME.fullmatch(pure.name):
                continue
            with file:
                content = file.read(MOST_FILE + 1)
            if len(content) > MOST_FILE:
                raise DatasetError(f"{path} in {archive} has more than {MOST_FILE} bytes: it is not the data set")
            yield pure, content
    except (
        OSError,
        EOFError,
        RuntimeError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DatasetError(f"{archive} is damaged ({error}): remove it and run this again") from error


def _zipped(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if not member.is_dir():
                yield member.filename, opened.open(member)


def _tarred(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:*") as opened:
        for member in opened:
            if member.isreg() and (file := opened.extractfile(member)) is not None:
                yield member.name, file
