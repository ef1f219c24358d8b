"""The text embedding of the empty prompt: computed once, then kept in a small file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from m2n2_backend.backbones.loading import loading, refuse_missing
from m2n2_backend.backbones.weights.sources import content_hash, loading_options
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.files import replace_file

logger = logging.getLogger(__name__)

_KEY = "embedding"


def empty_prompt_embedding(folder: Path, cache_dir: Path) -> torch.Tensor:
    """Last hidden state of the text encoder for "", from the cache where it is there.

    The text encoder (1.4 GB in 32-bit for Stable Diffusion 2) is loaded only to make the file, then let go.

    Args:
        folder: Weights in diffusers' layout, with ``text_encoder/`` and ``tokenizer/``.
        cache_dir: Where the file is kept; a folder that cannot be written costs a warning only.

    Returns:
        float32 [1, tokens, width] on the CPU; tokens is 77 for Stable Diffusion.

    Raises:
        BackboneUnavailable: The text encoder or the tokenizer cannot be loaded.
    """
    encoder = content_hash(folder / "text_encoder", folder / "tokenizer")
    path = cache_dir / f"empty-prompt-2-{encoder}.safetensors"  # 1 believed other files about the padding
    cached = _read(path)
    if cached is not None:
        return cached
    embedding = _encode_empty(folder)
    _write(path, embedding)
    return embedding


@torch.inference_mode()
def _encode_empty(folder: Path) -> torch.Tensor:
    from transformers import CLIPTextModel, CLIPTokenizer

    part = folder / "text_encoder"
    with loading(f"the text encoder in {folder}"):
        encoder, report = CLIPTextModel.from_pretrained(part, output_loading_info=True, **loading_options(part))
    refuse_missing(f"the text encoder in {folder}", report["missing_keys"])
    vocabulary, length = encoder.config.vocab_size, encoder.config.max_position_embeddings
    with loading(f"the tokenizer in {folder}"):
        tokenizer = CLIPTokenizer.from_pretrained(
            folder / "tokenizer", local_files_only=True, **_padding(folder / "tokenizer")
        )
        tokens = tokenizer("", padding="max_length", max_length=length, return_tensors="pt").input_ids
    if len(tokenizer) < vocabulary:
        raise BackboneUnavailable(
            f"the tokenizer in {folder} knows {len(tokenizer):,} tokens and the text encoder {vocabulary:,}: "
            "fetch both again"
        )
    return encoder.float().eval()(tokens)[0].contiguous()  # type: ignore[no-any-return]


def _padding(tokenizer: Path) -> dict[str, str]:
    """The token that fills the prompt up: the one that is not the end token, if either file names such a one.

    Stable Diffusion 2 was trained with ``!``, number 0. Its ``special_tokens_map.json`` says so, while its
    ``tokenizer_config.json`` repeats the end token, and releases of transformers differ in which file they believe.
    """
    named: list[str] = []
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = tokenizer / name
        marks = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        pad, end = (_content(marks.get(key)) for key in ("pad_token", "eos_token"))
        if pad:
            named.insert(0 if pad != end else len(named), pad)
    return {"pad_token": named[0]} if named else {}


def _content(mark: object) -> str:
    """The text of a token that is written as itself, or as an object with its content."""
    return str(mark.get("content", "") if isinstance(mark, dict) else mark or "")


def _read(path: Path) -> torch.Tensor | None:
    """The cached embedding, or None if the file is missing or damaged."""
    if not path.is_file():
        return None
    try:
        embedding = load_file(path)[_KEY]
    except (OSError, SafetensorError, KeyError) as error:
        logger.warning("%s is damaged and is computed again: %s", path, error)
        return None
    return embedding if embedding.ndim == 3 and bool(torch.isfinite(embedding).all()) else None


def _write(path: Path, embedding: torch.Tensor) -> None:
    try:
        replace_file(path, save({_KEY: embedding}))
    except OSError as error:
        logger.warning("cannot keep the empty prompt's embedding in %s: %s", path.parent, error)
