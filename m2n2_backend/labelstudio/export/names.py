"""Unique names of the images in the exported files, so that no two files of labels have the same name."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

_LONGEST = 150
"""Bytes of a name without its ending; file systems end at 255."""

_UNFIT = re.compile(r'[\x00-\x1f<>:"|?*]')
"""Characters that some file system does not allow in a name."""

TABLE = "images.csv"


@dataclass(frozen=True, slots=True)
class Image:
    """An image under one annotation.

    Attributes:
        name: The name in the exported files.
        task: Label Studio's id of the task.
        annotation: Label Studio's id of the annotation.
        page: The page of the task, counted from 0.
        address: The address in the task's data; empty for a data URL, which holds the file itself.
    """

    name: str
    task: int
    annotation: int
    page: int
    address: str


class Names:
    """Gives out names: the same key gets the same name."""

    def __init__(self) -> None:
        """Set up with all names free."""
        self._given: dict[Hashable, str] = {}
        self._taken: set[str] = set()

    def of(self, key: Hashable, address: str, more: str) -> str:
        """The name of a file; no two differ in their ending alone, or in capital letters.

        Args:
            key: Identifies the image.
            address: The image's address; its last part begins the name.
            more: Is appended where another key has that name, and stands alone where there is no address.
        """
        if key not in self._given:
            path = PurePosixPath(_UNFIT.sub("_", _last_part(address)).lstrip(".") or more)
            first = path.stem.encode()[:_LONGEST].decode(errors="ignore")
            others = (f"{first}-{more}" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
            stem = next(stem for stem in itertools.chain([first], others) if stem.lower() not in self._taken)
            self._taken.add(stem.lower())
            self._given[key] = stem + path.suffix[:20]
        return self._given[key]


def write_table(folder: Path, images: list[Image]) -> None:
    """Write ``images.csv``: which task, annotation, page and address each name stands for."""
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "task", "annotation", "page", "address"])
        writer.writerows([one.name, one.task, one.annotation, one.page, one.address] for one in images)


def _last_part(address: str) -> str:
    if address[:5].lower() == "data:":
        return ""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    path = parse_qs(parts.query).get("d", [""])[-1] or unquote(parts.path)  # /data/local-files/?d=folder/a.jpg
    return PurePosixPath(path.replace("\\", "/")).name
