"""Chains at random."""

from __future__ import annotations

import torch


def random_attention(cells: int, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    """Rows sum to 1, float32 [cells, cells]; the larger ``spread``, the further they are from uniform."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(spread * torch.randn(cells, cells, generator=generator), dim=1)
