"""What an image costs by the side of the grid and by the size of the photograph."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.backbones.device_memory import CPU_GRID, GRIDS, free_bytes
from m2n2_backend.commands.bench.options import BenchOptions
from m2n2_backend.commands.bench.photographs import center, jpeg, new_clicks, photograph
from m2n2_backend.commands.bench.timing import timed
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.attention import Backbone
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState

_CLICKS = 5
_ENCODES = 3
_LONG_MS = 5000.0  # no further encode after so many milliseconds of them
_MATRICES = 7  # of 32-bit, n x n: powers, and temporaries beside them


def measure_sweep(backbone: Backbone, method: Method, options: BenchOptions) -> dict[str, Any]:
    """Measure both.

    Args:
        backbone: For the photographs' sizes; the grids are measured with color and texture, on the same device.
        method: As the server runs it.
        options: Grids, photographs, repeats.

    Returns:
        ``sweep``; see :mod:`m2n2_backend.commands.bench`.
    """
    device = backbone.device
    most = options.max_grid or (CPU_GRID if device.type == "cpu" else max(GRIDS))
    wanted = [grid for grid in options.grids if grid <= most]
    fitting = [grid for grid in wanted if fits(grid, device)]
    return {
        "grids": [_grid(ColorAffinity(grid=grid, device=device), method, options) for grid in fitting],
        "grids_without_memory": [grid for grid in wanted if grid not in fitting],
        "photographs_backbone": backbone.description,
        "photographs": [_cost(backbone, method, size, options.repeats) for size in options.photographs],
    }


def fits(grid: int, device: torch.device) -> bool:
    """Whether the matrices of a grid fit into the free memory; True where the system does not tell how much it is."""
    free = _free_memory() if device.type == "cpu" else free_bytes(device)
    return not free or _MATRICES * 4 * grid**4 <= free


def _grid(backbone: ColorAffinity, method: Method, options: BenchOptions) -> dict[str, Any]:
    return {"grid": backbone.grid, **_cost(backbone, method, options.size, options.repeats)}


def _cost(backbone: Backbone, method: Method, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    data = jpeg(photograph(*size))
    decode = partial(decode_image, data, max_pixels=10**9)
    rgb = decode()
    segmenter, clock = Segmenter(backbone, method), partial(timed, backbone.device)
    states: list[ImageState] = []
    encodes: list[float] = []
    while len(encodes) < min(repeats, _ENCODES) and sum(encodes) < _LONG_MS:
        states.clear()  # a large matrix leaves no room for a second one
        encodes.append(clock(lambda: states.append(segmenter.encode(rgb))))
    segmenter.segment(states[0], [center(size)])
    clicks = [(center(size), click) for click in new_clicks(size, min(repeats, _CLICKS))]
    return {
        "width": size[0],
        "height": size[1],
        "decode": median(clock(decode) for _ in range(min(repeats, _ENCODES))),
        "encode": median(encodes),
        "new_click": median(clock(partial(segmenter.segment, states[0], pair)) for pair in clicks),
        "state_mb": states[0].nbytes / 1024**2,
    }


def _free_memory() -> int:
    """Bytes this machine has to spare; 0 where it does not tell."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
