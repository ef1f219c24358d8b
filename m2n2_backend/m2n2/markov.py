"""Step 3: start cells → Markov-iteration-maps (Sec. 3.3, Eq. 4 and 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m2n2_backend.m2n2.transition import advance

THRESHOLD = 0.3
"""τ, the relative probability at which a cell counts as reached (Sec. 4.1)."""

MAX_ITERATIONS = 1000
"""Steps of the chain at most; cells that never cross get this value (Sec. 4.1)."""


def markov_maps(
    powers: Sequence[torch.Tensor],
    starts: torch.Tensor,
    *,
    threshold: float = THRESHOLD,
    max_iterations: int = MAX_ITERATIONS,
) -> torch.Tensor:
    """Count the steps after which each cell has reached τ times the largest probability.

    With powers up to P^(2^k) the chain advances in blocks of 2^k steps: [p_t, …, p_(t+2^k-1)]·P^(2^k) are the next
    2^k distributions, so the largest matrix is read once per block instead of once per step. Only ratios within one
    distribution count, so each may carry a factor of its own. Every step is still
    looked at, and the crossing is interpolated between its two steps. A chain stops being computed when all cells of
    all starts have crossed.

    Args:
        powers: ``Transition.powers``: P, P², P⁴ …, [n, n].
        starts: p_0 of c chains, float32 [c, n], rows sum to 1.
        threshold: τ in (0, 1).
        max_iterations: At least 1.

    Returns:
        m, float32 [c, n], in steps, 0 ≤ m ≤ max_iterations; cells above τ at p_0 are 0.
    """
    chains, n = starts.shape
    block = _first_block(powers, starts, max_iterations)  # [c, b, n]
    steps = block.shape[1]
    maps = torch.full((chains, n), float(max_iterations), device=starts.device)
    before = torch.zeros(chains, 1, n, device=starts.device)  # ratios one step before the block
    open_cells = torch.ones(chains, n, dtype=torch.bool, device=starts.device)
    for first in range(0, max_iterations + 1, steps):
        ratios = block / block.amax(dim=2, keepdim=True)
        above = ratios > threshold
        if first + steps > max_iterations + 1:
            above[:, max_iterations + 1 - first :] = False
        crossing = above.any(dim=1) & open_cells
        index = above.to(torch.uint8).argmax(dim=1, keepdim=True)  # [c, 1, n], first True
        history = torch.cat([before, ratios], dim=1)
        low, high = history.gather(1, index)[:, 0], history.gather(1, index + 1)[:, 0]
        exact = (first - 1) + index[:, 0] + (threshold - low) / (high - low)
        maps = torch.where(crossing, exact.clamp_(min=0.0), maps)
        open_cells &= ~crossing
        if not open_cells.any():
            break
        before = ratios[:, -1:]
        block = advance(block.flatten(0, 1), powers[-1]).view_as(block)
    return maps


def _first_block(powers: Sequence[torch.Tensor], starts: torch.Tensor, max_iterations: int) -> torch.Tensor:
    """p_0 … p_(2^k - 1) of every chain, [c, 2^k, n]: each power doubles what is there."""
    block = starts[:, None, :]
    for power in powers[:-1]:
        following = advance(block.flatten(0, 1), power).view_as(block)
        block = torch.cat([block, following], dim=1)
    return block
