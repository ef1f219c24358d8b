"""What the benchmark is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from m2n2_backend.errors import SettingsError

SECTIONS = ("parts", "switches", "service", "sweep")
"""What can be measured, in the order in which it is."""

GRIDS = (32, 40, 56, 64, 96, 128)
"""Of the sweep."""

PHOTOGRAPHS = ((640, 480), (1280, 960), (2048, 1536), (4000, 3000))
"""Widths and heights of the sweep."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, and how much of it.

    Attributes:
        sections: Of :data:`SECTIONS`.
        size: Width and height of the photographs.
        repeats: Of every measurement; what takes long is repeated less often.
        sd2: Also measure the topology of Stable Diffusion 2 at full size, with random weights.
        annotators: Who click at the same time.
        images: That they click on.
        seconds: For which they do.
        max_grid: Of the sweep; None is 64 on a CPU and 128 on an accelerator.
        grids: Of the sweep.
        photographs: Widths and heights of the sweep.
    """

    sections: tuple[str, ...] = SECTIONS
    size: tuple[int, int] = (854, 480)
    repeats: int = 20
    sd2: bool = False
    annotators: int = 8
    images: int = 40
    seconds: float = 30.0
    max_grid: int | None = None
    grids: tuple[int, ...] = GRIDS
    photographs: tuple[tuple[int, int], ...] = PHOTOGRAPHS


def parse_sections(text: str | None) -> tuple[str, ...]:
    """``parts,sweep`` → the sections in their order; all where nothing is named.

    Raises:
        SettingsError: One that does not exist.
    """
    if text is None:
        return SECTIONS
    named = {part.strip() for part in text.split(",") if part.strip()}
    if not named or not named <= set(SECTIONS):
        raise SettingsError(f"--only takes some of {','.join(SECTIONS)}, separated by commas; got {text!r}")
    return tuple(section for section in SECTIONS if section in named)


def parse_size(text: str) -> tuple[int, int]:
    """``854x480`` → width and height.

    Raises:
        SettingsError: Something else, or a side of less than 16 or more than 10,000 pixels.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(16 <= side <= 10_000 for side in sides):
        raise SettingsError(f"--size is WIDTHxHEIGHT in pixels, such as 854x480, each 16 to 10000; got {text!r}")
    return sides
