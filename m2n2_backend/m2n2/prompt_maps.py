"""What a click or scribble contributes: the map of its cells (step 3), upsampled (4), flooded (5) and scored (6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.flood_fill import flood_fill, quantize
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.places import Place, Point, Stroke, index_of
from m2n2_backend.m2n2.state import ImageState, PromptMap
from m2n2_backend.m2n2.threshold import profile
from m2n2_backend.prompts import Click, PointPrompt

ACCELERATOR_BATCH = 8
"""Chains of new clicks that run together on an accelerator; on a CPU one after the other is faster."""


def working_pixel(state: ImageState, click: Click) -> Point:
    """(x, y) of the photograph → (row, col) at working size: the one place where the order turns."""
    (height, width), (rows, cols) = state.size, state.working_size
    return (2 * click.y + 1) * rows // (2 * height), (2 * click.x + 1) * cols // (2 * width)


def place_of(state: ImageState, prompt: PointPrompt) -> Place:
    """Where a click or scribble is at working size."""
    if isinstance(prompt, Click):
        return working_pixel(state, prompt)
    covered = np.zeros(state.working_size, np.bool_)
    (height, width), (rows, cols) = state.size, state.working_size
    y, x = prompt.pixels()
    covered[(2 * y + 1) * rows // (2 * height), (2 * x + 1) * cols // (2 * width)] = True
    return Stroke.of(covered)


def cells_under(state: ImageState, place: Place) -> NDArray[np.int64]:
    """The cell of each pixel of a place, row by row, int64 [n]: one occurs as often as it has pixels there."""
    (rows, cols), (height, width) = state.working_size, state.grid
    row, col = (np.atleast_1d(np.asarray(part, np.int64)) for part in index_of(place))
    return np.asarray((2 * row + 1) * height // (2 * rows) * width + (2 * col + 1) * width // (2 * cols))


def cell_at(state: ImageState, point: Point) -> int:
    """Index of the cell that holds a pixel's center, row by row."""
    (rows, cols), (height, width) = state.working_size, state.grid
    return int((2 * point[0] + 1) * height // (2 * rows)) * width + (2 * point[1] + 1) * width // (2 * cols)


def prompt_maps(method: Method, state: ImageState, places: Sequence[Place]) -> list[PromptMap]:
    """M' of each place, from the memo or made now; what the request needs stays, however many clicks it has."""
    found = {place: state.clicks.get(place) for place in places}
    missing = [place for place, own in found.items() if own is None]
    clicked = (cell_at(state, place) for place in missing if not isinstance(place, Stroke))
    maps = cell_maps(method, state, dict.fromkeys(clicked))
    for place in missing:
        small = _stroke_map(state, place) if isinstance(place, Stroke) else maps[cell_at(state, place)]
        made = _prompt_map(method, state, place, small)
        state.clicks.put(place, made, keep=len(found))
        found[place] = made
    return [own for place in places if (own := found[place]) is not None]


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


def _prompt_map(method: Method, state: ImageState, place: Place, cell_map: NDArray[np.float32]) -> PromptMap:
    row, col = index_of(place)
    full = state.upsample.apply(cell_map)
    flooded = flood_fill(full, row, col) if method.flood_fill else quantize(full, float(np.median(full[row, col])))
    return PromptMap(flooded.levels, flooded.step, profile(flooded.levels))


def start_of(state: ImageState, stroke: Stroke) -> NDArray[np.float32]:
    """p_0 of a scribble's chain, float32 [n], sums to 1: the mean over its pixels, each starting in its cell."""
    count = np.bincount(cells_under(state, stroke), minlength=state.grid[0] * state.grid[1])
    return np.asarray(count / count.sum(), np.float32)


def _stroke_map(state: ImageState, stroke: Stroke) -> NDArray[np.float32]:
    start = torch.from_numpy(start_of(state, stroke)).to(state.device)
    return state.relation.maps(start[None]).view(*state.grid).cpu().numpy()


def _maps(state: ImageState, cells: Sequence[int]) -> NDArray[np.float32]:
    starts = torch.zeros(len(cells), state.grid[0] * state.grid[1], device=state.device)
    starts[range(len(cells)), list(cells)] = 1.0
    return state.relation.maps(starts).view(-1, *state.grid).cpu().numpy()
