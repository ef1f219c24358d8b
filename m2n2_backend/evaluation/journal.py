"""Finished samples on disk, one line each, so that a killed run continues where it stopped."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2n2_backend.errors import SettingsError


@dataclass(frozen=True)
class FinishedSample:
    """One finished sample.

    Attributes:
        sample: Its name.
        ious: After each of 20 clicks.
        encode_seconds: Of its photograph; None if another sample of the same photograph has them.
        click_seconds: Sum over its clicks.
        clicks: Made before the mask was perfect.
        grid: Cells per side of the attention grid; None for a classic.
        ipf_residual: What IPF left over on its photograph, largest |row sum - 1|; None where there is none.
    """

    sample: str
    ious: tuple[float, ...]
    encode_seconds: float | None
    click_seconds: float
    clicks: int
    grid: int | None
    ipf_residual: float | None


class Journal:
    """A JSONL file: the run's fingerprint, then finished samples in the order in which they were finished."""

    def __init__(self, path: Path, fingerprint: dict[str, Any], *, fresh: bool = False) -> None:
        """Open, or start, the journal of one run.

        Args:
            path: Of the file; its folder is made if need be.
            fingerprint: Of everything that decides the results.
            fresh: Forget what is there.

        Raises:
            SettingsError: The file belongs to a run that would give other results.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines, size = ([], 0) if fresh or not path.exists() else _complete_lines(path)
        if lines and lines[0] != fingerprint:
            differing = ", ".join(sorted(_differences(lines[0], fingerprint)))
            raise SettingsError(
                f"{path} belongs to an unfinished run that differs in {differing}; repeat that command to finish it, "
                "or start over with --fresh"
            )
        entries = (FinishedSample(**{**line, "ious": tuple(line["ious"])}) for line in lines[1:])
        self.entries = {entry.sample: entry for entry in entries}
        self._file = path.open("ab")
        # A torn last line goes, or the next line would be glued to it.
        self._file.truncate(size)
        if not lines:
            self._write(fingerprint)

    def add(self, entry: FinishedSample) -> None:
        """Keep a finished sample; on disk when this returns."""
        self.entries[entry.sample] = entry
        self._write(asdict(entry))

    def close(self) -> None:
        """Leave the file for the next run."""
        self._file.close()

    def remove(self) -> None:
        """The results are safe elsewhere."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _complete_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All lines that were written to their end, and their bytes: a kill may tear the last one."""
    lines: list[dict[str, Any]] = []
    size = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            lines.pop()
            break
        size += len(line)
    return lines, size


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> set[str]:
    """Names of the parts of two fingerprints that are not equal."""
    names = set()
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            names |= _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            names.add(prefix + key)
    return names
