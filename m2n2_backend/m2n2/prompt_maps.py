"""What a click or scribble contributes: the map of its cells (step 3), upsampled (4), flooded (5) and scored (6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.cache import Sized
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.flood_fill import flood_fill, quantize
from m2n2_backend.m2n2.paper.threshold import profile
from m2n2_backend.m2n2.places import Place, Point, Start, Stroke, index_of, place_key, start_key
from m2n2_backend.m2n2.state import ImageState, PromptMap
from m2n2_backend.prompts import Click, PointPrompt
from m2n2_backend.rasters import cell_of

ACCELERATOR_BATCH = 8
"""Chains of new clicks that run together on an accelerator; on a CPU one after the other is faster."""

M = TypeVar("M", bound=Sized)


def working_pixel(state: ImageState, click: Click) -> Point:
    """(x, y) of the photograph → (row, col) at working size: the one place where the order turns."""
    (height, width), (rows, cols) = state.size, state.working_size
    return cell_of(click.y, height, rows), cell_of(click.x, width, cols)


def place_of(state: ImageState, prompt: PointPrompt) -> Place:
    """The place of a click or scribble at working size."""
    if isinstance(prompt, Click):
        return working_pixel(state, prompt)
    return Stroke.of(prompt.mask(state.size, state.working_size))


def cells_under(state: ImageState, place: Place) -> NDArray[np.int64]:
    """The cell of each pixel of a place, row by row, int64 [n]: a cell occurs once for each of the pixels in it."""
    row, col = (np.atleast_1d(np.asarray(part, np.int64)) for part in index_of(place))
    return np.asarray(_cell(row, col, state.working_size, state.grid))


def start_in_cell(point: Point, working_size: tuple[int, int], grid: tuple[int, int]) -> Start:
    """A chain starts in the cell that holds the pixel's center."""
    return ((int(_cell(*point, working_size, grid)), 1.0),)


def start_at(state: ImageState, place: Place) -> Start:
    """Where a chain starts: a click's by ``state.start``, a scribble's in the cells of all its pixels."""
    if isinstance(place, Stroke):
        cells, count = np.unique(cells_under(state, place), return_counts=True)
        return tuple(zip(cells.tolist(), (count / count.sum()).tolist(), strict=True))
    return state.start(place, state.working_size, state.grid)


def prompt_maps(method: Hyperparameters, state: ImageState, places: Sequence[Place]) -> list[PromptMap]:
    """M' of each place, from the memo or made now; all maps of a request stay, however many clicks it has."""
    return contributions(method, state, places, _prompt_map)


def contributions(
    method: Hyperparameters,
    state: ImageState,
    places: Sequence[Place],
    make: Callable[[Hyperparameters, Place, NDArray[np.float32]], M],
    kind: bytes = b"",
) -> list[M]:
    """The contribution of each place, from the memo or made now.

    Args:
        make: The method, a place and its upsampled map, float32 [H, W] → the contribution.
        kind: Tells the contributions of one ``make`` from those of another in the memo.
    """
    keys = {place: kind + place_key(place) for place in places}
    found: dict[Place, M | None] = {place: state.clicks.get(key) for place, key in keys.items()}
    starts = {place: start_at(state, place) for place, own in found.items() if own is None}
    maps = cell_maps(method, state, dict.fromkeys(starts.values()))
    for place, start in starts.items():
        made = make(method, place, state.upsample.apply(maps[start]))
        state.clicks.put(keys[place], made, keep=len(found))
        found[place] = made
    return [own for place in places if (own := found[place]) is not None]


def cell_maps(
    method: Hyperparameters, state: ImageState, starts: Iterable[Start]
) -> dict[Start, NDArray[np.float32]]:
    """M of each start, float32 [h, w]: several in one pass over the matrix where reading it takes the time."""
    keys = {start: start_key(start) for start in starts}
    found = {start: state.cells.get(key) for start, key in keys.items()}
    missing = [start for start, own in found.items() if own is None]
    together = maps_together(method, state)
    for first in range(0, len(missing), together):
        part = missing[first : first + together]
        for start, own in zip(part, _maps(state, part), strict=True):
            found[start] = own
            state.cells.put(keys[start], own, keep=len(found))
    return {start: own for start, own in found.items() if own is not None}


def maps_together(method: Hyperparameters, state: ImageState) -> int:
    """Number of chains of new clicks that run together."""
    return method.batch or (1 if state.device.type == "cpu" else ACCELERATOR_BATCH)


def _prompt_map(method: Hyperparameters, place: Place, full: NDArray[np.float32]) -> PromptMap:
    row, col = index_of(place)
    flooded = flood_fill(full, row, col) if method.flood_fill else quantize(full, float(np.median(full[row, col])))
    return PromptMap(flooded.levels, flooded.step, profile(flooded.levels))


def _cell(row: Any, col: Any, size: tuple[int, int], grid: tuple[int, int]) -> Any:
    """Index of the cell that holds a pixel's center, row by row; arrays give an array."""
    return cell_of(row, size[0], grid[0]) * grid[1] + cell_of(col, size[1], grid[1])


def _maps(state: ImageState, starts: Sequence[Start]) -> list[NDArray[np.float32]]:
    first = torch.zeros(len(starts), state.grid[0] * state.grid[1])
    for row, start in enumerate(starts):
        for cell, weight in start:
            first[row, cell] = weight
    together = state.relation.maps(first.to(state.device)).view(-1, *state.grid).cpu().numpy()
    return [own.copy() for own in together]  # a view would keep all of them as long as one of them is kept
