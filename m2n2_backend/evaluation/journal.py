"""Finished samples on disk, so that a killed run continues where it stopped."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2n2_backend.errors import SettingsError


@dataclass(frozen=True)
class FinishedSample:
    """What is kept of one object.

    Attributes:
        sample: Name of the sample.
        ious: IoU after each of 20 clicks.
        encode_seconds: Time to encode the photograph; None if another sample of the same photograph has it.
        click_seconds: Time of all clicks together.
        clicks: Number of clicks until the mask was perfect, or 20.
        grid: Cells per side of the attention grid; None for a classic method.
        ipf_residual: Largest |row sum - 1| after IPF on this photograph; None without a Markov chain.
    """

    sample: str
    ious: tuple[float, ...]
    encode_seconds: float | None
    click_seconds: float
    clicks: int
    grid: int | None
    ipf_residual: float | None


class Journal:
    """A JSONL file: the run's fingerprint, then one line for each finished sample."""

    def __init__(self, path: Path, fingerprint: dict[str, Any], *, fresh: bool = False) -> None:
        """Open or create the journal of one run.

        Args:
            path: The file; its folder is created if necessary.
            fingerprint: Everything that decides the results.
            fresh: Discard what an earlier run left.

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
        # A torn last line is cut off, or the next line would continue it.
        self._file.truncate(size)
        if not lines:
            self._write(fingerprint)

    def add(self, entry: FinishedSample) -> None:
        """Keep a finished sample. It is on disk when this returns."""
        self.entries[entry.sample] = entry
        self._write(asdict(entry))

    def close(self) -> None:
        """Close the file and leave it for the next run."""
        self._file.close()

    def remove(self) -> None:
        """Delete the file, once the results are safe elsewhere."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _complete_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All complete lines and the number of their bytes; a kill may tear the last line."""
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
    """Dotted names of the parts in which two fingerprints differ."""
    names = set()
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            names |= _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            names.add(prefix + key)
    return names
