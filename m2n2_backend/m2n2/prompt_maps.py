"""What one click contributes: its cell's map (steps 3), upsampled (4), flooded (5) and scored for every threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.cache import ByteCache, Sized
from m2n2_backend.m2n2.flood_fill import flood_fill, quantize
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.released import RankedMap, ranked_map
from m2n2_backend.m2n2.state import ImageState, PromptMap
from m2n2_backend.m2n2.threshold import profile
from m2n2_backend.prompts import Click

ACCELERATOR_BATCH = 8
"""Chains of new clicks that run together on an accelerator; on a CPU one after the other is faster."""

Point = tuple[int, int]
"""(row, col) at working size."""

Start = tuple[tuple[int, float], ...]
"""Cells in which a chain starts, with their weights, which sum to 1."""

M = TypeVar("M", bound=Sized)


def working_pixel(state: ImageState, click: Click) -> Point:
    """(x, y) of the photograph → (row, col) at working size: the one place where the order turns."""
    (height, width), (rows, cols) = state.size, state.working_size
    return (2 * click.y + 1) * rows // (2 * height), (2 * click.x + 1) * cols // (2 * width)


def cell_at(state: ImageState, point: Point) -> int:
    """Index of the cell that holds a pixel's center, row by row."""
    (rows, cols), (height, width) = state.working_size, state.grid
    return int((2 * point[0] + 1) * height // (2 * rows)) * width + (2 * point[1] + 1) * width // (2 * cols)


def start_at(method: Method, state: ImageState, point: Point) -> Start:
    """Where the chain of a click starts, by ``Method.start``."""
    if method.start == "cell":
        return ((cell_at(state, point), 1.0),)
    # The released code's coordinate: it maps the photograph's corners, not its outermost pixels' centers, to cells.
    places = [(cells - 1) * at / size for at, cells, size in zip(point, state.grid, state.working_size, strict=True)]
    rows, cols = ([(int(place), 1.0 - place % 1.0), (int(place) + 1, place % 1.0)] for place in places)
    width = state.grid[1]
    return tuple((row * width + col, down * right) for row, down in rows for col, right in cols if down * right > 0)


def prompt_maps(method: Method, state: ImageState, points: Sequence[Point]) -> list[PromptMap]:
    """M' of each point, from the memo or made now; what the request needs stays, however many clicks it has."""
    return _maps_of(method, state, points, state.clicks, _prompt_map)


def ranked_maps(method: Method, state: ImageState, points: Sequence[Point]) -> list[RankedMap]:
    """Likewise, as the released rules take them."""
    return _maps_of(method, state, points, state.ranked, _ranked_map)


def _maps_of(
    method: Method,
    state: ImageState,
    points: Sequence[Point],
    memo: ByteCache[M],
    make: Callable[[Method, Point, NDArray[np.float32]], M],
) -> list[M]:
    found = {point: memo.get(point) for point in points}
    starts = {point: start_at(method, state, point) for point, own in found.items() if own is None}
    maps = cell_maps(method, state, dict.fromkeys(starts.values()))
    for point, start in starts.items():
        made = make(method, point, state.upsample.apply(maps[start]))
        memo.put(point, made, keep=len(found))
        found[point] = made
    return [own for point in points if (own := found[point]) is not None]


def cell_maps(method: Method, state: ImageState, starts: Iterable[Start]) -> dict[Start, NDArray[np.float32]]:
    """M of each start, float32 [h, w]: several in one pass over the matrix where reading it takes the time."""
    found = {start: state.cells.get(start) for start in starts}
    missing = [start for start, own in found.items() if own is None]
    together = method.batch or (1 if state.device.type == "cpu" else ACCELERATOR_BATCH)
    for first in range(0, len(missing), together):
        part = missing[first : first + together]
        for start, own in zip(part, _maps(state, part), strict=True):
            found[start] = own
            state.cells.put(start, own, keep=len(found))
    return {start: own for start, own in found.items() if own is not None}


def _ranked_map(method: Method, point: Point, full: NDArray[np.float32]) -> RankedMap:
    return ranked_map(full, *point, flood_fill=method.flood_fill)


def _prompt_map(method: Method, point: Point, full: NDArray[np.float32]) -> PromptMap:
    row, col = point
    flooded = flood_fill(full, row, col) if method.flood_fill else quantize(full, float(full[row, col]))
    return PromptMap(flooded.levels, flooded.step, profile(flooded.levels))


def _maps(state: ImageState, starts: Sequence[Start]) -> NDArray[np.float32]:
    first = torch.zeros(len(starts), state.grid[0] * state.grid[1])
    for row, start in enumerate(starts):
        for cell, weight in start:
            first[row, cell] = weight
    return state.relation.maps(first.to(state.device)).view(-1, *state.grid).cpu().numpy()
