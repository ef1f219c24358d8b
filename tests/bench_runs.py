"""One small run of the benchmark, shared by the tests of its sections."""

from __future__ import annotations

import functools
import io

from rich.console import Console

from m2n2_backend.commands.bench import BenchOptions, Figures, run_bench
from m2n2_backend.settings import Settings, load_settings

SIZE = (96, 64)
GRID = 10


def small_settings(**more: object) -> Settings:
    # One thread: matrices this small gain nothing by more, and lose much where other work runs beside.
    return load_settings(backbone="color", grid=GRID, device="cpu", threads=1, **more)


def small_options(*sections: str) -> BenchOptions:
    return BenchOptions(
        sections=sections,
        size=SIZE,
        repeats=3,
        annotators=3,
        images=4,
        seconds=1.5,
        max_grid=12,
        grids=(8, 12, 16),
        photographs=((64, 48), (128, 96)),
    )


@functools.cache
def small_run() -> tuple[Figures, str]:
    """All sections: the figures, and what was printed."""
    output = io.StringIO()
    console = Console(file=output, width=200)
    figures = run_bench(small_settings(), small_options("parts", "switches", "service", "sweep"), console)
    return figures, output.getvalue()
