"""Tiny vision models of many families with random weights, by the names that transformers gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

PATCH = 4
SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 16}
_SIZES = {**SIZES, "patch_size": PATCH}
_WIDE = {**_SIZES, "intermediate_size": 32}
_TEXTS = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 9,
}
_WINDOWS = {"image_size": 32, "patch_size": PATCH, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]}

FAMILIES: dict[str, Callable[[], Any]] = {
    "ViT": lambda: _made("ViT", **_WIDE),
    "DeiT": lambda: _made("DeiT", **_WIDE),
    "ViTMSN": lambda: _made("ViTMSN", **_WIDE),
    "IJepa": lambda: _made("IJepa", **_WIDE),
    "Dinov2": lambda: _made("Dinov2", mlp_ratio=2, **_SIZES),
    "Dinov2, gated": lambda: _made("Dinov2", mlp_ratio=2, use_swiglu_ffn=True, **_SIZES),
    "Dinov2WithRegisters": lambda: _made("Dinov2WithRegisters", mlp_ratio=2, num_register_tokens=4, **_SIZES),
    "DINOv3ViT": lambda: _made("DINOv3ViT", num_register_tokens=4, **_WIDE),
    "CLIPVision": lambda: _made("CLIPVision", **_WIDE),
    "CLIP": lambda: _made("CLIP", vision_config=_WIDE, text_config=_TEXTS, projection_dim=8),
    "SiglipVision": lambda: _made("SiglipVision", **_WIDE),
    "Siglip": lambda: _made("Siglip", vision_config=_WIDE, text_config=_TEXTS),
    "Beit": lambda: _made("Beit", use_relative_position_bias=True, **_WIDE),
    "Data2VecVision": lambda: _made("Data2VecVision", use_shared_relative_position_bias=True, **_WIDE),
    "ViTMAE": lambda: _made("ViTMAE", **_WIDE),
    "ViTMAE, unmasked": lambda: _made("ViTMAE", mask_ratio=0.0, **_WIDE),
    "Swin": lambda: _made("Swin", window_size=4, **_WINDOWS),
    "Swinv2": lambda: _made("Swinv2", window_size=4, **_WINDOWS),
    "Blip": lambda: _made("Blip", vision_config=_WIDE, text_config=_TEXTS),
    "VitDet": lambda: _made("VitDet", window_block_indices=[0], window_size=2, **_SIZES),
    "Pvt": lambda: _made("Pvt", image_size=32),
    "ConvNext": lambda: _made("ConvNext", hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]),
    "ResNet": lambda: _made("ResNet", embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]),
    "VideoMAE": lambda: _made("VideoMAE", num_frames=2, **_WIDE),
    "Bert": lambda: _made("Bert", **_TEXTS),
}


def save_family(family: str, folder: Path) -> Path:
    """Write ``config.json`` and ``model.safetensors``; no weights keep their uniform initial values.

    Raises:
        AttributeError: This release of transformers does not have the family.
    """
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def _made(family: str, **sizes: Any) -> Any:
    config, model = getattr(transformers, f"{family}Config"), getattr(transformers, f"{family}Model")
    return model(config(**sizes))
