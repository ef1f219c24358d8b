"""Any Hugging Face vision transformer: ViT, DINO, DINOv2 with or without registers (Sec. 13)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.backbones.quiet import quiet_transformers
from m2n2_backend.backbones.square import squash
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.m2n2.attention import AttentionBlock, AttentionFeatures

_HALF = (0.5, 0.5, 0.5)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_QUERY_NAMES = ("query", "q_proj")
_KEY_NAMES = ("key", "k_proj")


class _Captured(Exception):  # a signal that ends the forward pass, no failure
    """The last wanted layer has been read."""


class VisionTransformer:
    """Queries and keys of chosen layers; CLS and register tokens are removed.

    The softmax over the patch tokens alone equals removing the special columns and renormalizing each head's rows;
    the released code renormalizes after the mean over heads, for which the special tokens' keys are kept. The image
    is squashed to a square, as for Stable Diffusion.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        revision: str,
        layers: Sequence[int] | None,
        grid: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        released: bool = False,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: A transformers vision model without head.
            name: For logs, e.g. the hub id.
            revision: Of the weights; part of the fingerprint.
            layers: Counted from 0, negative from the end; None is the last. All count equally.
            grid: Cells per side; the input is ``grid * patch_size`` pixels.
            mean: Per channel, of RGB in [0, 1].
            std: Per channel.
            device: Where the model is put.
            released: Resize the image and cut the special tokens as the released code does.

        Raises:
            BackboneUnavailable: A layer that the model lacks, or no separate query and key projections.
        """
        self._attentions = _attention_projections(model, name)
        count = len(self._attentions)
        wanted = [count - 1] if layers is None else [layer % count for layer in layers if -count <= layer < count]
        if not wanted or (layers is not None and len(wanted) != len(layers)):
            raise BackboneUnavailable(f"{name} has layers 0 to {count - 1}; asked for {list(layers or [])}")
        self._layers = sorted(set(wanted))
        self._model = model.to(device).eval().requires_grad_(False)
        self._heads = int(model.config.num_attention_heads)
        self._patch = int(model.config.patch_size)
        self._mean = np.asarray(mean, np.float32)
        self._std = np.asarray(std, np.float32)
        self.grid = grid
        self.device = device
        self._released = released
        ending = "-released" if released else ""
        self.fingerprint = f"vit-{revision}-l{'.'.join(map(str, self._layers))}-g{grid}{ending}"
        self.description = f"{name} layer {', '.join(map(str, self._layers))} of {count}, grid {grid}"

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        revision: str,
        layers: Sequence[int] | None,
        grid: int,
        device: torch.device,
        released: bool = False,
    ) -> VisionTransformer:
        """Load ``config.json`` and weights from a folder.

        Raises:
            BackboneUnavailable: The folder holds no vision transformer, or ``layers`` are not in it.
        """
        from transformers import AutoModel

        quiet_transformers()
        try:
            model = AutoModel.from_pretrained(folder, local_files_only=True, **_without_pooler(folder))
        except (OSError, ValueError, KeyError) as error:
            raise BackboneUnavailable(f"{folder} cannot be loaded as a vision transformer: {error}") from error
        mean, std = _normalization(folder, str(model.config.model_type))
        return cls(
            model,
            name=name,
            revision=revision,
            layers=layers,
            grid=grid,
            mean=mean,
            std=std,
            device=device,
            released=released,
        )

    @torch.inference_mode()
    def features(self, rgb: NDArray[np.uint8]) -> AttentionFeatures:
        """One forward pass, ended after the last wanted layer.

        Args:
            rgb: uint8 [H, W, 3].

        Returns:
            One block per layer, queries and keys in 16-bit [heads, grid², d] on the device.

        Raises:
            FloatingPointError: The model gives non-finite values.
        """
        side = self.grid * self._patch
        normalized = (squash(rgb, side, area=self._released) / 255.0 - self._mean) / self._std
        pixels = torch.from_numpy(normalized).permute(2, 0, 1)[None].to(self.device, self._model.dtype)
        with _capture([self._attentions[layer] for layer in self._layers]) as captured, suppress(_Captured):
            self._forward(pixels)
        blocks = []
        for queries, keys in captured:
            q, k = self._patch_tokens(queries), self._patch_tokens(keys)
            special = self._heads_of(keys[0, : -self.grid * self.grid]) if self._released else None
            blocks.append(AttentionBlock(q, k, q.shape[-1] ** -0.5, 1.0 / len(captured), special))
        return AttentionFeatures(tuple(blocks), self.grid, self.grid)

    def _forward(self, pixels: torch.Tensor) -> None:
        if self._model.config.model_type.startswith("dinov2"):
            self._model(pixels)  # interpolates its positions by itself
        else:
            self._model(pixels, interpolate_pos_encoding=True)

    def _patch_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """[1, special + n, heads*d] → [heads, n, d]; the special tokens come first in every such model."""
        return self._heads_of(tokens[0, -self.grid * self.grid :])

    def _heads_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """[t, heads*d] → [heads, t, d] in 16-bit where that holds the values."""
        split = tokens.reshape(len(tokens), self._heads, -1).transpose(0, 1)
        half = split.to(torch.float16).contiguous()
        return half if torch.isfinite(half).all() else split.float().contiguous()


def _attention_projections(model: Any, name: str) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """(query, key) projections of every layer, in order, under the names of any transformers release."""
    found: list[tuple[torch.nn.Module, torch.nn.Module]] = []
    for module in model.modules():
        children = dict(module.named_children())
        query = next((children[key] for key in _QUERY_NAMES if key in children), None)
        key = next((children[key] for key in _KEY_NAMES if key in children), None)
        if query is not None and key is not None:
            found.append((query, key))
    if not found:
        raise BackboneUnavailable(f"{name} has no query and key projections: not a vision transformer this can read")
    return found


@contextmanager
def _capture(
    projections: Sequence[tuple[torch.nn.Module, torch.nn.Module]],
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Collect the outputs of the projections; end the pass when the last pair is complete."""
    outputs: dict[torch.nn.Module, torch.Tensor] = {}
    captured: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        outputs[module] = output
        if all(part in outputs for part in projections[-1]):
            captured.extend((outputs[query], outputs[key]) for query, key in projections)
            raise _Captured

    handles = [part.register_forward_hook(keep) for pair in projections for part in pair]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _without_pooler(folder: Path) -> dict[str, bool]:
    """The pooler is never run, and classifier checkpoints lack its weights."""
    config = json.loads((folder / "config.json").read_text())
    return {"add_pooling_layer": False} if config.get("model_type") == "vit" else {}


def _normalization(folder: Path, model_type: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of the checkpoint; where it names none, those its family was trained with."""
    path = folder / "preprocessor_config.json"
    if path.is_file():
        config = json.loads(path.read_text())
        if "image_mean" in config and "image_std" in config:
            return config["image_mean"], config["image_std"]
    return (_HALF, _HALF) if model_type == "vit" else (_IMAGENET_MEAN, _IMAGENET_STD)
