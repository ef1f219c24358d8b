"""What one click contributes: its cell's map (steps 3), upsampled (4), flooded (5) and scored for every threshold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.flood_fill import flood_fill, quantize
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.state import ImageState, PromptMap
from m2n2_backend.m2n2.threshold import profile
from m2n2_backend.prompts import Click

ACCELERATOR_BATCH = 8
"""Chains of new clicks that run together on an accelerator; on a CPU one after the other is faster."""

Point = tuple[int, int]
"""(row, col) at working size."""


def working_pixel(state: ImageState, click: Click) -> Point:
    """(x, y) of the photograph → (row, col) at working size: the one place where the order turns."""
    (height, width), (rows, cols) = state.size, state.working_size
    return (2 * click.y + 1) * rows // (2 * height), (2 * click.x + 1) * cols // (2 * width)


def cell_at(state: ImageState, point: Point) -> int:
    """Index of the cell that holds a pixel's center, row by row."""
    (rows, cols), (height, width) = state.working_size, state.grid
    return int((2 * point[0] + 1) * height // (2 * rows)) * width + (2 * point[1] + 1) * width // (2 * cols)


def prompt_maps(method: Method, state: ImageState, points: Sequence[Point]) -> list[PromptMap]:
    """M' of each point, from the memo or made now; what the request needs stays, however many clicks it has."""
    found = {point: state.clicks.get(point) for point in points}
    missing = [point for point, own in found.items() if own is None]
    maps = cell_maps(method, state, dict.fromkeys(cell_at(state, point) for point in missing))
    for point in missing:
        made = _prompt_map(method, state, point, maps[cell_at(state, point)])
        state.clicks.put(point, made, keep=len(found))
        found[point] = made
    return [own for point in points if (own := found[point]) is not None]


def cell_maps(method: Method, state: ImageState, cells: Iterable[int]) -> dict[int, NDArray[np.float32]]:
    """M of each cell, float32 [h, w]: several in one pass over the matrix where reading it takes the time."""
    found = {cell: state.cells.get(cell) for cell in cells}
    missing = [cell for cell, own in found.items() if own is None]
    together = method.batch or (1 if state.device.type == "cpu" else ACCELERATOR_BATCH)
    for first in range(0, len(missing), together):
        part = missing[first : first + together]
        for cell, own in zip(part, _maps(state, part), strict=True):
            found[cell] = own
            state.cells.put(cell, own, keep=len(found))
    return {cell: own for cell, own in found.items() if own is not None}


def _prompt_map(method: Method, state: ImageState, point: Point, cell_map: NDArray[np.float32]) -> PromptMap:
    row, col = point
    full = state.upsample.apply(cell_map)
    flooded = flood_fill(full, row, col) if method.flood_fill else quantize(full, float(full[row, col]))
    return PromptMap(flooded.levels, flooded.step, profile(flooded.levels))


def _maps(state: ImageState, cells: Sequence[int]) -> NDArray[np.float32]:
    starts = torch.zeros(len(cells), state.grid[0] * state.grid[1], device=state.device)
    starts[range(len(cells)), list(cells)] = 1.0
    return state.relation.maps(starts).view(-1, *state.grid).cpu().numpy()
