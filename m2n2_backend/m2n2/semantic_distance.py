"""How far each cell is from a prompt: the paper's Markov map and its two baselines (Sec. 3.3, 4, 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.markov import Crossing, interpolated, markov_maps
from m2n2_backend.m2n2.paper.transition import Fit, Transition, accelerated_fit, transition_matrix

ATTENTION_TEMPERATURE = 10.0
"""T of Attention-NN (Sec. 8)."""

KL_TEMPERATURE = 2.0
"""T of KL-NN (Sec. 8)."""

KL_CLIP = 1e-5
"""Least attention in KL-NN (Sec. 8)."""


class SemanticDistance(Protocol):
    """Maps start distributions over the cells to a map that grows with the semantic distance."""

    def maps(self, starts: torch.Tensor) -> torch.Tensor:
        """Float32 [c, n], rows sum to 1 → float32 [c, n], finite, ≥ 0."""
        ...

    @property
    def nbytes(self) -> int:
        """Device memory held."""
        ...


@dataclass(frozen=True)
class MarkovDistance:
    """Markov-iteration-maps: M2N2 itself."""

    transition: Transition
    tau: float
    max_iterations: int
    crossing: Crossing = interpolated

    def maps(self, starts: torch.Tensor) -> torch.Tensor:
        """See :func:`m2n2_backend.m2n2.paper.markov.markov_maps`."""
        return markov_maps(
            self.transition, starts, tau=self.tau, max_iterations=self.max_iterations, crossing=self.crossing
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the powers."""
        return self.transition.nbytes


@dataclass(frozen=True)
class AttentionDistance:
    """Attention-NN: the prompt's own attention row after temperature, negated.

    Attributes:
        attention: float32 [n, n], rows sum to 1.
    """

    attention: torch.Tensor

    def maps(self, starts: torch.Tensor) -> torch.Tensor:
        """Largest attention of the row minus the attention, float32 [c, n]."""
        rows = starts @ self.attention
        return rows.amax(dim=1, keepdim=True) - rows

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        return self.attention.nbytes


@dataclass(frozen=True)
class DivergenceDistance:
    """KL-NN: symmetric KL divergence between the prompt's attention row and every row.

    Attributes:
        attention: float32 [n, n], after temperature and clipping to [1e-5, 1].
        logarithm: Its natural logarithm.
    """

    attention: torch.Tensor
    logarithm: torch.Tensor

    @staticmethod
    def of(attention: torch.Tensor) -> DivergenceDistance:
        """Clip the attention (after temperature) and keep its logarithm."""
        clipped = attention.clamp(KL_CLIP, 1.0)
        return DivergenceDistance(clipped, clipped.log())

    def maps(self, starts: torch.Tensor) -> torch.Tensor:
        """KL(a‖b) + KL(b‖a) in nats = Σ (a - b)(log a - log b), float32 [c, n]."""
        rows = starts @ self.attention
        logs = rows.log()
        own = (rows * logs).sum(dim=1, keepdim=True)
        each = (self.attention * self.logarithm).sum(dim=1)
        return (own + each - rows @ self.logarithm.T - logs @ self.attention.T).clamp_(min=0.0)

    @property
    def nbytes(self) -> int:
        """Bytes of both matrices."""
        return self.attention.nbytes + self.logarithm.nbytes


def tempered(attention: torch.Tensor, temperature: float) -> torch.Tensor:
    """Eq. 5: softmax over each row of log(A)/T, a new float32 [n, n]."""
    return torch.softmax(attention.log() / temperature, dim=1)


def semantic_distance_of(
    attention: torch.Tensor,
    method: Hyperparameters,
    fit: Fit = accelerated_fit,
    crossing: Crossing = interpolated,
) -> SemanticDistance:
    """Build the matrix of ``method.relation``; it may reuse the memory of ``attention``, float32 [n, n]."""
    if method.relation == "attention":
        return AttentionDistance(tempered(attention, ATTENTION_TEMPERATURE))
    if method.relation == "kl":
        return DivergenceDistance.of(tempered(attention, KL_TEMPERATURE))
    transition = transition_matrix(
        attention,
        temperature=method.temperature,
        tolerance=method.tolerance,
        max_sweeps=method.max_sweeps,
        doublings=method.doublings,
        half=method.half,
        fit=fit,
    )
    return MarkovDistance(transition, method.tau, method.max_iterations, crossing)
