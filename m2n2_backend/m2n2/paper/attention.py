"""Step 1: attention features → one row-stochastic matrix (Sec. 3.2, Eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class AttentionBlock:
    """Queries and keys of one self-attention, special tokens already removed.

    Attributes:
        queries: [heads, h*w, d], any float dtype.
        keys: [heads, h*w, d], same dtype.
        scale: Factor of the dot product before the softmax, mostly d ** -0.5.
        weight: w_j of Eq. 3, ≥ 0; the weights of an image's blocks sum to 1.
        special: Keys of special tokens, [heads, s, d], where they take their share of each head's softmax and rows
            are renormalized after the mean over heads (released code, DINOv2); None leaves them out of the softmax.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scale: float
    weight: float
    special: torch.Tensor | None = None


@dataclass(frozen=True)
class AttentionFeatures:
    """A backbone's output for one image, which is what caches keep: a few MB, where the matrix takes up to 1 GB.

    Attributes:
        blocks: At least one; all of the same h*w.
        height: h, cells of the attention grid from top to bottom.
        width: w, cells from left to right.
    """

    blocks: tuple[AttentionBlock, ...]
    height: int
    width: int

    @property
    def cells(self) -> int:
        """N = h*w."""
        return self.height * self.width

    @property
    def nbytes(self) -> int:
        """Bytes of all queries and keys."""
        return sum(tensor.nbytes for tensor in self._tensors)

    @property
    def is_finite(self) -> bool:
        """Whether all queries and keys are numbers, and none is infinite."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self._tensors)

    @property
    def _tensors(self) -> list[torch.Tensor]:
        tensors = (tensor for block in self.blocks for tensor in (block.queries, block.keys, block.special))
        return [tensor for tensor in tensors if tensor is not None]

    def to(self, device: torch.device | str) -> AttentionFeatures:
        """Copy the features to another device."""
        moved = (
            replace(
                block,
                queries=block.queries.to(device),
                keys=block.keys.to(device),
                special=None if block.special is None else block.special.to(device),
            )
            for block in self.blocks
        )
        return AttentionFeatures(tuple(moved), self.height, self.width)


class Backbone(Protocol):
    """A model whose self-attention is read; its weights are already loaded."""

    @property
    def fingerprint(self) -> str:
        """A name of model, revision, layers and grid; equal fingerprints give equal features."""
        ...

    @property
    def description(self) -> str:
        """One line for logs and /health."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model runs and where the matrix is built."""
        ...

    def features(self, rgb: NDArray[np.uint8]) -> AttentionFeatures:
        """Run the model once.

        Args:
            rgb: uint8 [H, W, 3], any size; resized to the backbone's square input.
        """
        ...


def aggregate(
    features: AttentionFeatures,
    device: torch.device | str,
    *,
    half_softmax: bool = False,
    chunk_bytes: int = 256 * 1024**2,
) -> torch.Tensor:
    """Mean over heads, weighted sum over blocks (Eq. 3), in 32-bit whatever the features' dtype.

    One head and one chunk of rows at a time, so that beside the result at most about ``chunk_bytes`` are held.

    Args:
        half_softmax: Take each head's softmax in 16-bit (released code), the mean still in 32-bit.
        chunk_bytes: Bound of the temporary 32-bit rows.

    Returns:
        A, float32 [h*w, h*w] on ``device``; entries > 0 up to underflow, rows sum to 1.

    Raises:
        FloatingPointError: Queries or keys hold non-finite values.
    """
    n = features.cells
    matrix = torch.zeros(n, n, dtype=torch.float32, device=device)
    rows = max(1, min(n, chunk_bytes // (3 * 4 * n)))
    for block in features.blocks:
        heads = block.queries.shape[0]
        for head in range(heads):
            queries = block.queries[head].to(device, torch.float32) * block.scale
            keys = block.keys[head].to(device, torch.float32)
            if block.special is not None:
                keys = torch.cat([keys, block.special[head].to(device, torch.float32)])
            if not (torch.isfinite(queries).all() and torch.isfinite(keys).all()):
                raise FloatingPointError("attention features hold non-finite values")
            for start in range(0, n, rows):
                logits = queries[start : start + rows] @ keys.T
                probabilities = torch.softmax(logits.half() if half_softmax else logits, dim=-1)[:, :n].float()
                matrix[start : start + rows].add_(probabilities, alpha=block.weight / heads)
    if half_softmax or any(block.special is not None for block in features.blocks):
        matrix.div_(matrix.sum(dim=1, keepdim=True))
    return matrix
