"""Stable Diffusion 2 and 1.1: the attention M2N2 was made for (Sec. 3.2, 4.1, 13)."""

from __future__ import annotations

import gc
import importlib.util
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.backbones.attention_blocks import (
    layer_numbers,
    normalized_weights,
    top_attentions,
    weights_label,
)
from m2n2_backend.backbones.device.errors import is_out_of_memory
from m2n2_backend.backbones.device.memory import default_grid, memory_advice, refuse_large_scores
from m2n2_backend.backbones.empty_prompt import empty_prompt_embedding
from m2n2_backend.backbones.loading import loading, quiet_diffusers, refuse_missing
from m2n2_backend.backbones.self_attention import read_layers
from m2n2_backend.backbones.square import squash
from m2n2_backend.backbones.weights.sources import loading_options, revision_of
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures

logger = logging.getLogger(__name__)

Version = Literal["sd2", "sd1"]

TIMESTEP = 100
"""Time step of the one U-Net pass; no noise is added (Sec. 4.1)."""

BLOCK_WEIGHTS: Mapping[str, float] = {"up0": 0.5, "up1": 0.5}
"""w_j of Eq. 3: the best of Table 1."""

VAE_FACTOR = 8
"""Pixels per side of a latent, and so of an attention cell."""

GRID_CHOICES: Mapping[Version, tuple[int, ...]] = {"sd2": (128, 96, 64), "sd1": (112, 96, 64)}
"""Grids tried by free memory, largest first: the paper's own (Sec. 4.1, 13), then smaller ones."""

_UNUSED_OF_VAE = ("decoder", "post_quant_conv")

_TITLES: Mapping[Version, str] = {"sd2": "Stable Diffusion 2", "sd1": "Stable Diffusion 1.1"}


class StableDiffusion:
    """Queries and keys of the U-Net's self-attentions of highest resolution.

    One image at a time, further threads wait; nothing is kept of an image. An image of any aspect ratio is
    squashed to a square: the paper leaves other shapes open.
    """

    def __init__(
        self,
        vae: Any,
        unet: Any,
        embedding: torch.Tensor,
        *,
        name: Version,
        revision: str,
        grid: int,
        device: torch.device,
        weights: Mapping[str, float] = BLOCK_WEIGHTS,
        released: bool = False,
    ) -> None:
        """Wrap loaded parts.

        Args:
            vae: diffusers ``AutoencoderKL``; its decoder is removed.
            unet: diffusers ``UNet2DConditionModel``.
            embedding: The empty prompt's, float32 [1, tokens, width].
            revision: Identifies the weights; its first 12 characters enter the fingerprint.
            grid: Cells per side; the input is ``8 * grid`` pixels.
            weights: Block name → w_j > 0, scaled to sum 1.
            released: Resize the image as the released code does.

        Raises:
            SettingsError: A block that does not exist, or no positive weight.
            BackboneUnavailable: Not Stable Diffusion's structure, or the device cannot take such a grid.
        """
        self._weights = normalized_weights(weights)
        attentions = top_attentions(unet)
        self._scales = [float(attentions[block].scale) for block in self._weights]
        numbers = layer_numbers(unet)
        self._layers = [numbers[block] for block in self._weights]
        refuse_large_scores(device, max(attention.heads for attention in attentions.values()), grid)
        for part in _UNUSED_OF_VAE:
            if hasattr(vae, part):
                delattr(vae, part)
        with memory_advice(grid, device):
            self._vae = vae.to(device).eval().requires_grad_(False)
            self._unet = unet.to(device).eval().requires_grad_(False)
            self._embedding = embedding.to(device)
        self._lock = threading.Lock()
        self.grid = grid
        self.device = device
        blocks = weights_label(self._weights)
        self._released = released
        precision = str(self._unet.dtype).removeprefix("torch.")
        ending = "-released" if released else ""
        self.fingerprint = f"{name}-{revision[:12]}-{precision}-{blocks}-g{grid}{ending}"
        self.description = f"{_TITLES[name]}, attention {blocks}, grid {grid}, {precision} on {device}"

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: Version,
        grid: int | None,
        device: torch.device,
        cache_dir: Path,
        weights: Mapping[str, float] = BLOCK_WEIGHTS,
        dtype: torch.dtype | None = None,
        released: bool = False,
    ) -> StableDiffusion:
        """Load weights from a folder in diffusers' layout.

        Args:
            folder: With ``unet/``, ``vae/``, ``text_encoder/``, ``tokenizer/``; see ``weights.resolve``.
            grid: Cells per side, at best a multiple of 8; None takes what the device's free memory allows.
            cache_dir: Where the empty prompt's embedding is kept.
            weights: Block name → w_j.
            dtype: None is 16-bit on an accelerator and 32-bit on a CPU.
            released: Resize the image as the released code does.

        Raises:
            SettingsError: As the constructor.
            BackboneUnavailable: The folder is not complete or damaged, or the device lacks the memory.
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel

        quiet_diffusers()
        chosen = grid or default_grid(device, GRID_CHOICES[name])
        precision = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
        with memory_advice(chosen, device):
            embedding = empty_prompt_embedding(folder, cache_dir)
            unet = _load_part(UNet2DConditionModel, folder, "unet", precision)
            vae = _load_part(AutoencoderKL, folder, "vae", precision, unused=_UNUSED_OF_VAE)
        return cls(
            vae,
            unet,
            embedding,
            name=name,
            revision=revision_of(folder),
            grid=chosen,
            device=device,
            weights=weights,
            released=released,
        )

    def features(self, rgb: NDArray[np.uint8]) -> AttentionFeatures:
        """Encode one image: VAE, then one U-Net pass that ends after the last wanted block.

        Args:
            rgb: uint8 [H, W, 3].

        Returns:
            One block per weight, queries and keys [heads, grid², d] on the device: float16, or float32 where
            a value is out of its range.

        Raises:
            BackboneUnavailable: The weights give non-finite values even in 32-bit.
            RuntimeError: Out of memory, in PyTorch's words: the caller may have some to give back.
        """
        with self._lock, torch.inference_mode():
            latents = self._in_range(self._vae, lambda: [self._latents(rgb)])[0]
            captured = self._in_range(self._unet, lambda: self._attend(latents))
        # Outside of inference mode, so that the stored tensors are ordinary ones.
        weights = self._weights.values()
        blocks = tuple(
            AttentionBlock(_stored(pair[0]), _stored(pair[1]), scale, weight)
            for pair, scale, weight in zip(captured, self._scales, weights, strict=True)
        )
        return AttentionFeatures(blocks, self.grid, self.grid)

    def _latents(self, rgb: NDArray[np.uint8]) -> torch.Tensor:
        """[1, 4, grid, grid]: the mode of the posterior, scaled; nothing is drawn at random."""
        pixels = prepare_image(rgb, VAE_FACTOR * self.grid, area=self._released).to(self.device, self._vae.dtype)
        mode = self._vae.encode(pixels).latent_dist.mode()
        return mode * self._vae.config.scaling_factor  # type: ignore[no-any-return]

    def _attend(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """Per wanted block [2, heads, grid², d]: queries and keys."""
        dtype = self._unet.dtype
        layers = read_layers(
            lambda: self._unet(latents.to(dtype), TIMESTEP, encoder_hidden_states=self._embedding.to(dtype)),
            self._layers,
        )
        return [torch.stack((layer.queries[0], layer.keys[0])) for layer in layers]

    def _in_range(self, part: torch.nn.Module, run: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
        """Result of a part of the model; one that overflows in 16-bit is widened and stays so."""
        tensors = run()
        if _finite(tensors):
            return tensors
        if next(part.parameters()).dtype == torch.float16:
            logger.warning("%s overflows in 16-bit and is run in 32-bit from now on", type(part).__name__)
            try:
                part.float()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                part.bfloat16()  # the range of 32-bit in the memory of 16-bit
            tensors = run()
        if not _finite(tensors):
            raise BackboneUnavailable(
                f"weights of {type(part).__name__} give non-finite values even in 32-bit: fetch them again"
            )
        return tensors


def prepare_image(rgb: NDArray[np.uint8], side: int, *, area: bool = False) -> torch.Tensor:
    """Squash to a square and scale.

    Args:
        rgb: uint8 [H, W, 3].
        side: Width and height of the result in pixels.
        area: See :func:`m2n2_backend.backbones.square.squash`.

    Returns:
        float32 [1, 3, side, side] in [-1, 1].
    """
    pixels = torch.from_numpy(squash(rgb, side, area=area))
    return (pixels / 127.5 - 1.0).permute(2, 0, 1)[None].contiguous()


def _load_part(
    model_class: Any, folder: Path, part: str, dtype: torch.dtype, unused: Collection[str] = ()
) -> torch.nn.Module:
    """One diffusers model, on the CPU; only weights below its ``unused`` modules may be missing."""
    with loading(str(folder / part)):
        model, report = model_class.from_pretrained(
            folder,
            subfolder=part,
            torch_dtype=dtype,
            # Without accelerate diffusers would fall back by itself, but with a warning to install it.
            low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
            output_loading_info=True,
            **loading_options(folder / part),
        )
    gc.collect()  # diffusers leaves a cycle that holds on to the file's memory map, 1.7 GB for the U-Net
    refuse_missing(str(folder / part), [name for name in report["missing_keys"] if name.split(".")[0] not in unused])
    return model  # type: ignore[no-any-return]


def _finite(tensors: Sequence[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of its own in 16-bit, or in 32-bit where a value exceeds the range of float16."""
    half = tensor.to(torch.float16, copy=True)
    return half if bool(torch.isfinite(half).all()) else tensor.to(torch.float32, copy=True)
