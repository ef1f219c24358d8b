"""Powers of the transition matrix in 16-bit, as CUDA has them: half the memory, and half the time of a pass.

A power is kept as its diagonal in 32-bit and everything else in 16-bit. A cell that keeps 0.999 of itself lets go of
a thousandth at each step; 16 bits of the 0.999 would give that thousandth with an error of a quarter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

HALF_SCALE = 4096.0
"""What 16-bit powers are multiplied by. P is doubly stochastic, so with rows scaled to a largest value of ``_ROW`` no
product exceeds 16 · 4096, the end of the 16-bit range, while an entry of 1e-8 still keeps three digits."""

_ROW = 15.0
_CHUNK_BYTES = 64 * 1024**2  # of 32-bit rows beside 16-bit matrices
_LEAST = 1e-30


def powers_in_16_bit(
    matrix: torch.Tensor, doublings: int
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """P and P^(2^k), or P alone if k = 0; beside P two matrices are held on the way, of which the result is one.

    Args:
        matrix: P, float32 [n, n]; it is used up, and its memory freed.
        doublings: k.

    Returns:
        The powers, float16 [n, n], ``HALF_SCALE`` times as much and 0 on the diagonal; their diagonals, float32 [n].
    """
    diagonal = matrix.diagonal().clone()
    first = _columns_scaled(matrix, diagonal, torch.empty_like(matrix, dtype=torch.float16))
    matrix.set_()  # type: ignore[call-overload]  # 1 GB at grid 128, which callers would hold until the end
    if doublings == 0:
        return (first,), (diagonal,)
    power, spare = torch.empty_like(first), torch.empty_like(first)
    last = _square(first, diagonal, power)
    for _ in range(doublings - 1):
        last = _square(power, last, spare)
        power, spare = spare, power
    return (first, power), (diagonal, last)


def advance_in_16_bit(rows: torch.Tensor, power: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    """Advance distributions by one power, float32 [c, n], entries ≥ 0."""
    scale = _ROW / rows.amax(dim=1, keepdim=True).clamp_(min=_LEAST)
    with _sums_in_32_bit():
        following = ((rows * scale).half() @ power).float() / (scale * HALF_SCALE)
    return following.addcmul_(rows, diagonal)


def _square(power: torch.Tensor, diagonal: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write the next power to ``out``, and return its diagonal: (D + O)² = D² + DO + OD + O²."""
    with _sums_in_32_bit():
        for rows in _chunks(power):
            # 4096·P · 8·P stays in range, and the result must be 4096·P².
            torch.matmul(power[rows] * (8.0 / HALF_SCALE), power, out=out[rows])
            # Without a name, which would hold on to these rows while the next ones are made.
            out[rows] = (diagonal[rows, None] + diagonal).mul_(power[rows]).add_(out[rows], alpha=0.125)
    following = diagonal.square().add_(out.diagonal().float(), alpha=1.0 / HALF_SCALE)
    _columns_scaled(out, following, out)
    return following


def _columns_scaled(matrix: torch.Tensor, diagonal: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write a power in 16-bit without its diagonal, its columns brought to their sums again.

    With the diagonal these are 1, times ``HALF_SCALE``. Rounding errors of a column's entries cancel out, but what
    they leave over would add up with every pass: without this the map of a chain of 650 steps is off by 2 % of its
    range, with it by 0.3 %.

    Args:
        matrix: The power, [n, n], in any unit; its diagonal is set to 0.
        diagonal: What the power's cells keep, float32 [n].
        out: float16 [n, n]; may be ``matrix`` itself.
    """
    matrix.fill_diagonal_(0.0)
    sums = matrix.sum(dim=0, dtype=torch.float32).clamp_(min=_LEAST)
    factors = (1.0 - diagonal).clamp_(min=0.0).mul_(HALF_SCALE) / sums
    for rows in _chunks(matrix):
        out[rows] = matrix[rows] * factors
    return out


def _chunks(matrix: torch.Tensor) -> Iterator[slice]:
    """Rows that take ``_CHUNK_BYTES`` in 32-bit."""
    rows = max(1, _CHUNK_BYTES // (4 * matrix.shape[1]))
    for start in range(0, matrix.shape[0], rows):
        yield slice(start, start + rows)


@contextmanager
def _sums_in_32_bit() -> Iterator[None]:
    """CUDA's products of 16-bit matrices may otherwise add up their parts in 16-bit."""
    products = torch.backends.cuda.matmul
    before = products.allow_fp16_reduced_precision_reduction
    products.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        products.allow_fp16_reduced_precision_reduction = before
