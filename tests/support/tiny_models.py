"""Saves tiny random models in the way in which the real ones are published."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from m2n2_backend.backbones.random_models import random_unet, random_vae
from m2n2_backend.backbones.stable_diffusion import Version

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def save_stable_diffusion(folder: Path, name: Version = "sd2", *, seed: int = 0, variant: str | None = None) -> Path:
    """Write ``unet/ vae/ text_encoder/ tokenizer/ model_index.json`` with the real topology."""
    dtype = torch.float16 if variant == "fp16" else torch.float32
    random_unet(name, tiny=True, seed=seed, dtype=dtype).save_pretrained(folder / "unet", variant=variant)
    random_vae(tiny=True, seed=seed + 1, dtype=dtype).save_pretrained(folder / "vae", variant=variant)
    _save_text_encoder(folder / "text_encoder", seed, dtype, variant)
    _save_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


@torch.no_grad()
def plain_embedding(folder: Path) -> torch.Tensor:
    """The saved text encoder's embedding of the empty prompt, computed by transformers alone."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokens = tokenizer([""], padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    return CLIPTextModel.from_pretrained(folder / "text_encoder").eval()(tokens.input_ids).last_hidden_state


def _save_text_encoder(folder: Path, seed: int, dtype: torch.dtype, variant: str | None) -> None:
    config = CLIPTextConfig(
        vocab_size=2 * len(_LETTERS) + len(_SPECIAL),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=2 * len(_LETTERS),
        eos_token_id=2 * len(_LETTERS) + 1,
        pad_token_id=2 * len(_LETTERS) + 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = CLIPTextModel(config)
    encoder.to(dtype).save_pretrained(folder, variant=variant)


def _save_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True)
    pieces = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), *_SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    start, end = _SPECIAL
    marks = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
