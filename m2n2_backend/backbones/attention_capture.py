"""Reading queries and keys out of a U-Net's self-attentions of highest resolution (Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch

from m2n2_backend.backbones.self_attention import PassEnded
from m2n2_backend.errors import BackboneUnavailable, SettingsError

TOP_BLOCKS = ("down0", "down1", "up0", "up1", "up2")
"""The self-attentions of highest resolution, in the order in which the U-Net runs them."""


def top_attentions(unet: Any) -> dict[str, Any]:
    """The five self-attentions by name: diffusers ``Attention`` modules of the first down and last up block.

    Raises:
        BackboneUnavailable: The U-Net has another structure than Stable Diffusion 1 and 2.
    """
    down = getattr(unet.down_blocks[0], "attentions", ())
    up = getattr(unet.up_blocks[-1], "attentions", ())
    if (len(down), len(up)) != (2, 3):
        raise BackboneUnavailable("the U-Net lacks the five top self-attentions of Stable Diffusion 1 and 2")
    return {
        name: transformer.transformer_blocks[0].attn1
        for name, transformer in zip(TOP_BLOCKS, [*down, *up], strict=True)
    }


def normalized_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """w_j of Eq. 3 in execution order, scaled to sum 1, zeros left out.

    Raises:
        SettingsError: A block that does not exist, a negative weight, or nothing positive.
    """
    unknown = set(weights) - set(TOP_BLOCKS)
    total = sum(weights.values())
    if unknown or total <= 0 or min(weights.values()) < 0:
        names = ", ".join(TOP_BLOCKS)
        raise SettingsError(f"attention weights are ≥ 0, not all 0, and belong to {names}; got {dict(weights)}")
    return {block: weights[block] / total for block in TOP_BLOCKS if weights.get(block, 0.0) > 0}


def weights_label(weights: Mapping[str, float]) -> str:
    """Short text for fingerprints: the blocks, and their weights where these are not all the same."""
    same = max(weights.values()) - min(weights.values()) < 1e-9
    return "-".join(block if same else f"{block}x{weight:.6g}" for block, weight in weights.items())


@contextmanager
def capture(attentions: Sequence[Any]) -> Iterator[list[torch.Tensor]]:
    """Collect queries and keys while the body runs the U-Net, and end its pass after the last ones.

    The outputs of the projections are read as diffusers' own attention processor reads them, so whatever
    kernel it picks stays in use and no probabilities are computed. Hooks are on the modules only within the
    body: two threads must not be in it at once.

    Args:
        attentions: diffusers ``Attention`` modules in execution order.

    Returns:
        A list that fills in the order of ``attentions``: [2, heads, n, d], queries first, the model's dtype.
    """
    captured: list[torch.Tensor] = []
    queries: list[torch.Tensor] = []

    def keep_queries(attention: Any, _module: object, _inputs: object, output: torch.Tensor) -> None:
        queries.append(_split_heads(output, attention.heads, attention.norm_q))

    def keep_keys(attention: Any, _module: object, _inputs: object, output: torch.Tensor) -> None:
        captured.append(torch.stack((queries.pop(), _split_heads(output, attention.heads, attention.norm_k))))
        if len(captured) == len(attentions):
            raise PassEnded

    with suppress(PassEnded), ExitStack() as hooks:
        for attention in attentions:
            for projection, keep in ((attention.to_q, keep_queries), (attention.to_k, keep_keys)):
                hooks.callback(projection.register_forward_hook(partial(keep, attention)).remove)
        yield captured


def _split_heads(tokens: torch.Tensor, heads: int, norm: Any) -> torch.Tensor:
    """[1, n, heads*d] → [heads, n, d], normalized where the model does so."""
    split = tokens.reshape(1, tokens.shape[1], heads, -1).transpose(1, 2)  # [1, heads, n, d]
    return split[0] if norm is None else norm(split)[0]
