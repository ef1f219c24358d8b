"""Steps 2 and 3 as the released code has them: IPF, where a chain starts, when a cell is reached."""

from __future__ import annotations

import torch

from m2n2_backend.m2n2.places import Point, Start


def plain_sweeps(
    matrix: torch.Tensor, tolerance: float, max_sweeps: int
) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    """Fit by plain sweeps of columns, then rows, which end with the rows.

    Returns:
        As ``accelerated_fit``; the residual is that of the last sweep's rows before they were divided.
    """
    transposed = matrix.T
    left = 1.0 / torch.mv(matrix, torch.ones_like(matrix[0]))
    sweeps, residual = 0, float("inf")
    while sweeps < max_sweeps and residual > tolerance:
        right = 1.0 / torch.mv(transposed, left)
        rows = torch.mv(matrix, right)
        residual = float((left * rows - 1.0).abs().max())
        left = 1.0 / rows
        sweeps += 1
    return left, right, sweeps, residual


def start_in_four_cells(point: Point, working_size: tuple[int, int], grid: tuple[int, int]) -> Start:
    """The four cells around a click with bilinear weights.

    The coordinate maps the photograph's corners, not the centers of its outermost pixels, to cells.
    """
    places = [(cells - 1) * at / size for at, cells, size in zip(point, grid, working_size, strict=True)]
    rows, cols = ([(int(place), 1.0 - place % 1.0), (int(place) + 1, place % 1.0)] for place in places)
    width = grid[1]
    return tuple((row * width + col, down * right) for row, down in rows for col, right in cols if down * right > 0)


def crossing_as_released(step: int, before: torch.Tensor, ratios: torch.Tensor, tau: float) -> torch.Tensor:
    """In the first step every ratio counts as grown by 1 - τ, and 1e-6 is added to all growth."""
    growth = (1.0 - tau) if step == 1 else ratios - before
    return step - (ratios - tau) / (growth + 1e-6) if step else torch.zeros_like(ratios)
