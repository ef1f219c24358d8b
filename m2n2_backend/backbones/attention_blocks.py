"""A U-Net's self-attentions of highest resolution, and the weights with which they are averaged (Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def layer_numbers(unet: Any) -> dict[str, int]:
    """Places of the same five among all self-attentions of the U-Net, in the order of a pass, from 0."""
    count = sum(name.endswith(".attn1") for name, _ in unet.named_modules())
    return dict(zip(TOP_BLOCKS, [0, 1, count - 3, count - 2, count - 1], strict=True))


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
