"""Step 3: start cells → Markov-iteration-maps (Sec. 3.3, Eq. 4 and 6)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TypeAlias

import torch

from m2n2_backend.m2n2.paper.transition import Transition

TAU = 0.3
"""τ, the relative probability at which a cell counts as reached (Sec. 4.1)."""

MAX_ITERATIONS = 1000
"""Steps of the chain at most; cells that never cross get this value (Sec. 4.1)."""

Crossing: TypeAlias = Callable[[int, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Step, ratios one step earlier, ratios now (both [c, n]) and τ → when each cell that is above τ now crossed it."""


def interpolated(step: int, before: torch.Tensor, ratios: torch.Tensor, tau: float) -> torch.Tensor:
    """Between the two steps around the crossing, linearly."""
    return (step - 1) + (tau - before) / (ratios - before)


def markov_maps(
    transition: Transition,
    starts: torch.Tensor,
    *,
    tau: float = TAU,
    max_iterations: int = MAX_ITERATIONS,
    crossing: Crossing = interpolated,
) -> torch.Tensor:
    """Count the steps after which each cell has reached τ times the largest probability.

    Every step is checked, and a crossing is interpolated between the two steps around it. The computation ends when
    all cells of all starts have crossed.

    Args:
        starts: p_0 of c chains, float32 [c, n], rows sum to 1.
        tau: τ in (0, 1).
        max_iterations: At least 1.
        crossing: How the time of a crossing is found from the steps around it.

    Returns:
        m, float32 [c, n], in steps, 0 ≤ m ≤ max_iterations; cells above τ at p_0 are 0.
    """
    maps = torch.full_like(starts, float(max_iterations))
    open_cells = torch.ones_like(starts, dtype=torch.bool)
    before = torch.zeros_like(starts)  # ratios one step earlier
    for step, p in enumerate(islice(transition.distributions(starts), max_iterations + 1)):
        ratios = p / p.amax(dim=1, keepdim=True)  # [c, n]
        reached = (ratios > tau) & open_cells
        maps = torch.where(reached, crossing(step, before, ratios, tau).clamp_(min=0.0), maps)
        open_cells &= ~reached
        # Once per block: an accelerator has to be waited for, and the block's other steps are there already.
        if (step + 1) % transition.block == 0 and not open_cells.any():
            break
        before = ratios
    return maps
