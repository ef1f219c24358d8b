"""A model that loads and encodes only while no file in a folder forbids it, so that a test decides how long it takes.

Nothing heavy is imported here, as the web process imports it too.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from m2n2_backend.settings import Settings

WARM_UP = (64, 64)


class Gates:
    """The folder of these files, as a test uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def close(self, step: str) -> None:
        """Hold ``load`` or ``encode`` back."""
        (self.folder / f"{step}.closed").touch()

    def open(self, step: str) -> None:
        (self.folder / f"{step}.closed").unlink(missing_ok=True)

    def reached(self, step: str) -> list[int]:
        """Process ids of the processes that reached a step, once for each time."""
        path = self.folder / step
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def load_gated(settings: Settings, device: str, *, folder: Path) -> Any:
    _pass(folder, "load")
    from m2n2_backend.backbones.color import ColorAffinity

    class Gated(ColorAffinity):
        def features(self, rgb: Any) -> Any:
            if rgb.shape[:2] != WARM_UP:
                _pass(folder, "encode")
            return super().features(rgb)

    return Gated(grid=8)


def loader(folder: Path) -> partial[Any]:
    """What a worker loads; it can be pickled."""
    return partial(load_gated, folder=folder)


def _pass(folder: Path, step: str) -> None:
    with (folder / step).open("a") as reached:
        reached.write(f"{os.getpid()}\n")
    while (folder / f"{step}.closed").exists():
        time.sleep(0.02)
