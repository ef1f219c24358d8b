"""Folders of images that also hold files of the operating system or the storage."""

from __future__ import annotations

from pathlib import Path

_OF_SYSTEMS = frozenset(
    {
        "__macosx",  # archives made on macOS
        "@eadir",  # Synology: thumbnails
        "#recycle",  # Synology
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "$recycle.bin",  # Windows
        "system volume information",
        "lost+found",  # Linux
    }
)


def is_of_a_person(path: Path, folder: Path) -> bool:
    """Whether a person put the file ``path`` into ``folder``: it is not hidden, and not a thumbnail or deleted file.

    Only the names below ``folder`` count.
    """
    parts = path.relative_to(folder).parts
    return not any(part.startswith(".") or part.lower() in _OF_SYSTEMS for part in parts)
