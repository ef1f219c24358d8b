"""Names of backbones → loaded backbones."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.backbones.device.kept_grid import choice_file, load_with_kept_grid
from m2n2_backend.backbones.device.memory import memory_advice, release
from m2n2_backend.backbones.stable_diffusion import GRID_CHOICES, StableDiffusion
from m2n2_backend.backbones.vit import VisionTransformer
from m2n2_backend.backbones.weights.names import check_backbone, check_model, kind_of, repository_of
from m2n2_backend.backbones.weights.sources import REPOSITORIES, available, resolve, revision_of
from m2n2_backend.errors import BackboneUnavailable, OutOfMemory
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.settings import BackboneName, Settings, default_cache_dir

__all__ = [
    "backbone_loader",
    "check_backbone",
    "device_name",
    "kind_of",
    "load_backbone",
    "own_weights",
    "resolve_device",
]

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Backbone)

VIT_GRID = 40
"""For ``vit`` on any device, and for the small DINOv2 that ``auto`` takes on a CPU."""

DINOV2_GRID = 80
"""The paper's (Sec. 13), input 1120×1120."""


@dataclass(frozen=True)
class BackboneOptions:
    """How weights are read, whichever they are; see :func:`load_backbone`."""

    device: torch.device
    cache_dir: Path
    layers: Sequence[int] | None
    grid: int | None
    fixed_grid: bool
    released: bool


def resolve_device(name: str) -> torch.device:
    """``auto`` → the first accelerator there is, else the CPU.

    Raises:
        BackboneUnavailable: A device is named that PyTorch does not see.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackboneUnavailable(
            "PyTorch sees no CUDA device: check the driver with nvidia-smi and that torch is a CUDA build, "
            "or choose --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BackboneUnavailable("PyTorch sees no MPS device: choose --device cpu")
    return device


def own_weights(name: BackboneName, device: torch.device) -> str | None:
    """Hub id of the weights a backbone uses where no model is named; None where it needs none or has none."""
    if name == "auto":
        return REPOSITORIES["dinov2-small" if device.type == "cpu" else "sd2"]
    return REPOSITORIES.get(name)


def device_name(device: torch.device) -> str:
    """A device in words: a GPU's model, or its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def load_backbone(
    name: BackboneName = "auto",
    *,
    model: str | Path | None = None,
    layers: Sequence[int] | None = None,
    grid: int | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
    fixed_grid: bool = False,
    released: bool = False,
) -> Backbone:
    """Load a backbone.

    ``auto`` is sd2 on an accelerator, else the small DINOv2 if its weights are on disk or can be downloaded, else
    color. A model that leaves too little memory for one image is passed over, unless it had enough at an earlier
    start with this ``cache_dir``. A named backbone never becomes another one.

    Args:
        model: Hub id or folder of other weights of the same kind; ``vit`` has none of its own.
        layers: Layers of a ViT, counted from 0; None is the middle one, of DINOv2 the last.
        grid: Cells per side; None is the backbone's own. Stable Diffusion's on an accelerator is what memory was free
            for when these weights were first loaded on such a device; ``cache_dir`` keeps this choice, so that all
            processes that share the folder have the same.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        cache_dir: For two small files of Stable Diffusion's; None is the folder of the settings' default.
        fixed_grid: Where no grid is given take the paper's, whatever memory is free: figures must be comparable.
        released: Prepare image and attention as the released code does, so that its figures can be reproduced.

    Raises:
        BackboneUnavailable: Weights, device or memory are missing; the message names the cure.
        SettingsError: ``model`` is missing where it is needed, or given where it has no meaning.
    """
    model = None if model is None else str(model)
    check_model(name, model)
    options = BackboneOptions(
        resolve_device(device), cache_dir or default_cache_dir(), layers, grid, fixed_grid, released
    )
    if name == "auto":
        return _auto(options)
    if name == "color":
        return ColorAffinity(grid=grid, device=options.device)
    repository = repository_of(name, model)
    folder = resolve(repository, kind_of(name))
    if name == "sd1" or name == "sd2":
        return _stable_diffusion(folder, name, options)
    return _vit(folder, repository, options, DINOV2_GRID if name == "dinov2" else VIT_GRID)


def backbone_loader(
    settings: Settings, device: str | None = None, *, fixed_grid: bool = False, released: bool = False
) -> Callable[[], Backbone]:
    """``load_backbone`` with what the settings choose; picklable, so that other processes can be given it."""
    return partial(
        load_backbone,
        settings.backbone,
        model=settings.model,
        layers=settings.layers,
        grid=settings.grid,
        device=device or settings.device,
        cache_dir=settings.cache_dir,
        fixed_grid=fixed_grid,
        released=released,
    )


def _auto(options: BackboneOptions) -> Backbone:
    """The first backbone whose weights are there and that fits into the device's memory."""
    device = options.device
    if device.type != "cpu":
        folder = available(REPOSITORIES["sd2"], "stable-diffusion")
        if folder is not None:
            load = partial(_stable_diffusion, folder, "sd2", options)
            choice = choice_file(options.cache_dir, "sd2", revision_of(folder), device)
            if options.grid is None and not options.fixed_grid and choice.exists():
                return load()  # it has fitted before: other masks for a while would be worse than none
            backbone = _if_it_fits(partial(load, try_out=True), device)
            if backbone is not None:
                return backbone
        else:
            logger.warning("no weights of Stable Diffusion 2: run `m2n2-backend fetch-weights`")
    small = REPOSITORIES["dinov2-small"]
    folder = available(small, "vit")
    if folder is not None:
        own_grid = VIT_GRID if device.type == "cpu" else DINOV2_GRID
        last_layer = replace(options, layers=None)
        backbone = _if_it_fits(lambda: _tried_out(_vit(folder, small, last_layer, own_grid)), device)
        if backbone is not None:
            return backbone
    else:
        logger.warning(
            "no weights on disk, and the hub cannot be reached: run `m2n2-backend fetch-weights` where it can"
        )
    logger.warning("using color and texture only, which is weak on complex scenes")
    return ColorAffinity(grid=options.grid, device=device)


def _if_it_fits(load: Callable[[], Backbone], device: torch.device) -> Backbone | None:
    """A backbone, or None where there is too little memory for it; the log says so."""
    try:
        return load()
    except OutOfMemory as error:
        logger.warning("%s: taking a smaller model", str(error))  # the error itself would keep the weights
    gc.collect()  # its weights, to the last of them
    release(device)
    return None


def _tried_out(backbone: M) -> M:
    """The same, after an accelerator has prepared one image with it: that takes more memory than the weights do.

    Raises:
        OutOfMemory: It takes too much.
    """
    if backbone.device.type in ("cuda", "mps"):
        with memory_advice(getattr(backbone, "grid", VIT_GRID), backbone.device):
            Segmenter(backbone).encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    return backbone


def _stable_diffusion(
    folder: Path, name: Literal["sd1", "sd2"], options: BackboneOptions, *, try_out: bool = False
) -> StableDiffusion:
    device, cache_dir = options.device, options.cache_dir

    def load(grid: int | None) -> StableDiffusion:
        model = StableDiffusion.load(
            folder, name=name, grid=grid, device=device, cache_dir=cache_dir, released=options.released
        )
        return _tried_out(model) if try_out else model

    grid = options.grid
    if grid is None and options.fixed_grid:
        grid = GRID_CHOICES[name][0]
    if grid is not None or device.type == "cpu":  # where memory chooses nothing
        return load(grid)
    return load_with_kept_grid(choice_file(cache_dir, name, revision_of(folder), device), load)


def _vit(folder: Path, name: str, options: BackboneOptions, own_grid: int) -> VisionTransformer:
    return VisionTransformer.load(
        folder,
        name=Path(name).name if Path(name).is_dir() else name,
        revision=revision_of(folder),
        layers=options.layers,
        grid=options.grid or own_grid,
        device=options.device,
        released=options.released,
    )
