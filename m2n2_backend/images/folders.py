"""Folders of images as people have them: beside the images lies what their systems put there."""

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
    """Whether a file below a folder is one that people put there: not hidden, nor a thumbnail or deleted file.

    Args:
        path: Below ``folder``, at any depth.
        folder: Its own name does not count.
    """
    parts = path.relative_to(folder).parts
    return not any(part.startswith(".") or part.lower() in _OF_SYSTEMS for part in parts)
