"""Whether a vision transformer can be read exactly: it is tried out on noise, so that no list is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from m2n2_backend.backbones.device.errors import is_out_of_memory
from m2n2_backend.backbones.loading import refuse_missing
from m2n2_backend.backbones.self_attention import SelfAttention, Watched, read_layers, watch
from m2n2_backend.errors import BackboneUnavailable, one_line

TOLERANCE = 1e-3
"""Share of a row's attention that queries and keys may put elsewhere than the model; exact ones stay below 1e-5."""

_GRID = 8  # cells per side of the noise on which all layers are compared
_CURE = "name a ViT, DeiT, DINOv2, DINOv3, I-JEPA, CLIP or SigLIP with --model"

Run = Callable[[torch.Tensor], object]
"""Calls a model with an image, float32 [1, 3, side, side]."""


def check_tokens(run: Run, name: str, *, grid: int, patch: int) -> int:
    """Find out whether the model attends with one token for each patch, in reading order, after special ones.

    Random patches of an image are changed: of the first layer's tokens those in their places must change most.

    Args:
        patch: Pixels per side of a cell.

    Returns:
        How many special tokens there are.

    Raises:
        BackboneUnavailable: The model attends in another way, or cannot take such an image.
    """
    changed = torch.rand(grid, grid, generator=_seeded()) < 0.5
    changed[0, 0], changed[-1, -1] = True, grid == 1
    pixels = _noise(grid * patch)
    other = torch.where(changed.repeat_interleave(patch, 0).repeat_interleave(patch, 1), -pixels, pixels)
    one, two = _first_keys(run, name, pixels), _first_keys(run, name, other)
    special = one.shape[2] - grid**2
    if one.shape != two.shape or len(one) != 1 or special < 0:
        raise _scattered(name)
    change = (one - two)[0, :, special:].float().abs().mean(dim=(0, 2)).reshape(grid, grid)
    if grid > 1 and not change[changed].mean() > 2 * change[~changed].mean():
        raise _scattered(name)
    return special


def check_layers(
    run: Run,
    name: str,
    choose: Callable[[int], list[int]],
    *,
    special: int,
    patch: int,
    missing: Mapping[str, torch.Tensor],
) -> tuple[list[int], int]:
    """Find out whether the layers that are wanted can be read exactly, and no random number has a part in them.

    Args:
        choose: Given the number of layers, returns those that are wanted, counted from 0, ascending.
        special: Tokens that are not patches.
        patch: Pixels per side of a cell.
        missing: Tensors of the model that its file lacks, by their names.

    Returns:
        The wanted layers, and how many the model has.

    Raises:
        BackboneUnavailable: The model lacks a layer or a tensor that is needed, or computes another attention.
    """
    with _runs(name, _GRID * patch):
        watched = watch(lambda: run(_noise(_GRID * patch)))
    count = len(watched.layers)
    wanted = choose(count)
    needed = {key for key, tensor in missing.items() if watched.used.get(id(tensor), count) <= wanted[-1]}
    refuse_missing(name, needed)
    for layer in wanted:
        _check_layer(watched, layer, name, tokens=special + _GRID**2)
    return wanted, count


def _check_layer(watched: Watched, layer: int, name: str, *, tokens: int) -> None:
    queries, moved = watched.layers[layer].queries, watched.moved[layer]
    if len(queries) != 1 or queries.shape[2] != tokens:
        raise _scattered(name)
    if not moved <= TOLERANCE:  # NaN is refused, too
        raise BackboneUnavailable(
            f"{name} cannot be read exactly: in layer {layer} its own attention has {moved:.2g} of a row's mass "
            f"elsewhere than queries and keys tell ({TOLERANCE:g} is allowed), like a bias for relative positions; "
            f"{_CURE}"
        )


def _first_keys(run: Run, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """[batch, heads, n, d] of the first self-attention."""
    read: list[SelfAttention] = []
    with _runs(name, pixels.shape[-1]):
        read = read_layers(lambda: run(pixels), [0])
    if not read:
        raise BackboneUnavailable(
            f"{name} runs without a self-attention that can be read, as convolutional networks do, and models that "
            f"transformers does not run with scaled_dot_product_attention; {_CURE}"
        )
    if not torch.isfinite(read[0].keys).all():
        raise BackboneUnavailable(
            f"{name} gives values that are not finite: its weights are damaged, fetch them again"
        )
    return read[0].keys


@contextmanager
def _runs(name: str, side: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a model of another kind may raise anything where it is given an image
        if is_out_of_memory(error):
            raise
        message = f"{name} cannot be run on an image of {side}×{side} pixels ({one_line(error)}); {_CURE}"
        raise BackboneUnavailable(message) from error


def _scattered(name: str) -> BackboneUnavailable:
    return BackboneUnavailable(
        f"{name} does not attend with one token for each patch in reading order: masking as in MAE, windows as in "
        f"Swin and pyramids cannot be read; {_CURE}"
    )


def _noise(side: int) -> torch.Tensor:
    return torch.randn(1, 3, side, side, generator=_seeded())


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
