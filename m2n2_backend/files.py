"""Files that no reader ever sees half written, whatever else writes to the same folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, in the place of an older one if there is one; missing folders are made.

    Raises:
        OSError: It cannot be written; the older file is as it was, and no other one is left behind.
    """
    with _draft(path, data) as draft:
        draft.replace(path)


def create_file(path: Path, data: bytes) -> bool:
    """Write a file if there is none yet; of several callers at once, exactly one gets True.

    Raises:
        OSError: It cannot be written.
    """
    with _draft(path, data) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
    return True


@contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    """The content under a name of its own in the same folder; whatever has that name afterwards is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random, as processes in two containers on one volume may have equal ids.
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        draft.write_bytes(data)
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
