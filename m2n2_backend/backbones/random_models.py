"""Stable Diffusion with random weights: the real topology and the real cost, without a download."""

from __future__ import annotations

from typing import Any

import torch

from m2n2_backend.backbones.stable_diffusion import StableDiffusion, Version

_TOKENS = 77
_DRAWN = 65521  # a prime, so that no two rows of a large matrix are alike

_SHARED_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
}
_FULL_UNET: dict[Version, dict[str, Any]] = {
    "sd2": {
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),  # diffusers' name; these are numbers of heads
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sd1": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
}
_TINY_UNET: dict[Version, dict[str, Any]] = {
    "sd2": {
        "sample_size": 16,
        "block_out_channels": (32, 64, 64, 64),
        "attention_head_dim": (2, 4, 4, 4),
        "cross_attention_dim": 16,
        "use_linear_projection": True,
        "norm_num_groups": 8,
    },
    "sd1": {
        "sample_size": 16,
        "block_out_channels": (32, 64, 64, 64),
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "norm_num_groups": 8,
    },
}


def random_unet(name: Version, *, tiny: bool = False, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A diffusers ``UNet2DConditionModel`` on the CPU; 866 M parameters for sd2, about 1 M if tiny."""
    from diffusers import UNet2DConditionModel

    config = (_TINY_UNET if tiny else _FULL_UNET)[name]
    with torch.device("meta"):
        model = UNet2DConditionModel(**_SHARED_UNET, **config)
    return _fill(model, seed, dtype)


def random_vae(*, tiny: bool = False, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A diffusers ``AutoencoderKL`` of factor 8 on the CPU; the same for both versions."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 16, 16, 16) if tiny else (128, 256, 512, 512),
            layers_per_block=1 if tiny else 2,
            norm_num_groups=8 if tiny else 32,
            latent_channels=4,
            sample_size=128 if tiny else 768,
            scaling_factor=0.18215,
        )
    return _fill(model, seed, dtype)


def random_stable_diffusion(
    name: Version = "sd2",
    *,
    grid: int = 64,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    tiny: bool = False,
    seed: int = 0,
) -> StableDiffusion:
    """A backbone that costs what the real one costs and says nothing about images.

    Args:
        name: The version whose topology it has.
        dtype: None is 16-bit on an accelerator and 32-bit on a CPU.
        tiny: A few hundred thousand parameters instead of about 900 million.

    Raises:
        BackboneUnavailable: The device lacks the memory.
    """
    target = torch.device(device)
    precision = dtype or (torch.float32 if target.type == "cpu" else torch.float16)
    vae = random_vae(tiny=tiny, seed=seed, dtype=precision)
    unet = random_unet(name, tiny=tiny, seed=seed, dtype=precision)
    width = int(unet.config.cross_attention_dim)
    embedding = torch.randn(1, _TOKENS, width, generator=torch.Generator().manual_seed(seed))
    revision = f"random{seed}{'tiny' if tiny else 'full'}"
    return StableDiffusion(vae, unet, embedding, name=name, revision=revision, grid=grid, device=target)


@torch.no_grad()
def _fill(model: Any, seed: int, dtype: torch.dtype) -> Any:
    """Uniform weights of unit gain; norms 1, biases 0. From meta tensors nothing is initialized twice."""
    generator = torch.Generator().manual_seed(seed)
    torch.nn.Module.to(model, dtype)  # the models' own method warns of layers it has not got
    model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            bound = (3.0 / parameter[0].numel()) ** 0.5
            drawn = torch.empty(min(parameter.numel(), _DRAWN)).uniform_(-bound, bound, generator=generator)
            _tile(parameter.view(-1), drawn)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model.eval()


def _tile(flat: torch.Tensor, pattern: torch.Tensor) -> None:
    """Repeat a pattern: drawing every one of a billion numbers would take a minute."""
    whole = flat.numel() // pattern.numel() * pattern.numel()
    flat[:whole].view(-1, pattern.numel()).copy_(pattern.expand(whole // pattern.numel(), -1))
    flat[whole:].copy_(pattern[: flat.numel() - whole])
