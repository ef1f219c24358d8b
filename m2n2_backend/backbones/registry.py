"""Names of backbones → loaded backbones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.backbones.stable_diffusion import StableDiffusion
from m2n2_backend.backbones.vit import VisionTransformer
from m2n2_backend.backbones.weights import REPOSITORIES, Kind, available, resolve, revision_of
from m2n2_backend.errors import BackboneUnavailable, SettingsError
from m2n2_backend.m2n2.attention import Backbone

logger = logging.getLogger(__name__)

Name = Literal["auto", "sd2", "sd1", "dinov2", "vit", "color"]

VIT_GRID = 40
"""For ``vit`` on any device, and for the small DINOv2 that ``auto`` takes on a CPU."""

DINOV2_GRID = 80
"""The paper's (Sec. 13), input 1120×1120."""


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


def kind_of(name: Name) -> Kind:
    """Which files a backbone's weights consist of."""
    return "stable-diffusion" if name in ("sd1", "sd2") else "vit"


def own_weights(name: Name, device: torch.device) -> str | None:
    """Hub id of the weights a backbone uses where no model is named; None where it needs none or has none."""
    if name == "auto":
        return REPOSITORIES["dinov2-small" if device.type == "cpu" else "sd2"]
    return REPOSITORIES.get(name)


def check_backbone(name: Name, *, model: str | None) -> None:
    """Find out, without loading anything or using the network, whether a named backbone's weights are on disk.

    ``auto`` and ``color`` can always be had.

    Raises:
        BackboneUnavailable: They are not; the message names the command that gets them.
        SettingsError: ``model`` is missing where it is needed, or given where it has no meaning.
    """
    _check_model(name, model)
    if name not in ("auto", "color"):
        resolve(_repository(name, model), kind_of(name), local_only=True)


def load_backbone(
    name: Name,
    *,
    model: str | None = None,
    layers: Sequence[int] | None = None,
    grid: int | None = None,
    device: str = "auto",
    cache_dir: Path,
) -> Backbone:
    """Load a backbone.

    ``auto`` is sd2 on an accelerator, else the small DINOv2 if its weights are on disk or can be had, else color;
    a named backbone never becomes another one.

    Args:
        name: Of the backbone.
        model: Hub id or folder of other weights of the same kind; ``vit`` has none of its own.
        layers: Of a ViT, counted from 0; None is the last.
        grid: Cells per side; None is the backbone's own.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        cache_dir: For small files.

    Raises:
        BackboneUnavailable: Weights, device or memory are missing; the message names the cure.
        SettingsError: ``model`` is missing where it is needed, or given where it has no meaning.
    """
    _check_model(name, model)
    where = resolve_device(device)
    if name == "auto":
        return _auto(grid, where, cache_dir)
    if name == "color":
        return ColorAffinity(grid=grid, device=where)
    repository = _repository(name, model)
    folder = resolve(repository, kind_of(name))
    if name == "sd1" or name == "sd2":
        return StableDiffusion.load(folder, name=name, grid=grid, device=where, cache_dir=cache_dir)
    own_grid = DINOV2_GRID if name == "dinov2" else VIT_GRID
    return _vit(folder, repository, layers, grid or own_grid, where)


class Choice(Protocol):
    """What settings say of the backbone."""

    @property
    def backbone(self) -> Name: ...  # noqa: D102
    @property
    def model(self) -> str | None: ...  # noqa: D102
    @property
    def layers(self) -> tuple[int, ...] | None: ...  # noqa: D102
    @property
    def grid(self) -> int | None: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def cache_dir(self) -> Path: ...  # noqa: D102


@dataclass(frozen=True)
class BackboneLoader:
    """``load_backbone`` with its arguments: a value that other processes can be given."""

    name: Name
    model: str | None
    layers: tuple[int, ...] | None
    grid: int | None
    device: str
    cache_dir: Path

    @staticmethod
    def of(choice: Choice) -> BackboneLoader:
        """What the settings choose."""
        return BackboneLoader(
            choice.backbone, choice.model, choice.layers, choice.grid, choice.device, choice.cache_dir
        )

    def __call__(self) -> Backbone:
        """Load it; see :func:`load_backbone`."""
        return load_backbone(
            self.name,
            model=self.model,
            layers=self.layers,
            grid=self.grid,
            device=self.device,
            cache_dir=self.cache_dir,
        )


def _auto(grid: int | None, device: torch.device, cache_dir: Path) -> Backbone:
    if device.type != "cpu":
        folder = available(REPOSITORIES["sd2"], "stable-diffusion")
        if folder is not None:
            return StableDiffusion.load(folder, name="sd2", grid=grid, device=device, cache_dir=cache_dir)
        logger.warning("no weights of Stable Diffusion 2: run `m2n2-backend fetch-weights`")
    small = REPOSITORIES["dinov2-small"]
    folder = available(small, "vit")
    if folder is not None:
        return _vit(folder, small, None, grid or (VIT_GRID if device.type == "cpu" else DINOV2_GRID), device)
    logger.warning(
        "no weights on disk and none within reach: using color and texture only, which is weak on complex scenes; "
        "run `m2n2-backend fetch-weights` where there is a connection"
    )
    return ColorAffinity(grid=grid, device=device)


def _vit(folder: Path, name: str, layers: Sequence[int] | None, grid: int, device: torch.device) -> VisionTransformer:
    title = Path(name).name if Path(name).is_dir() else name
    revision = revision_of(folder)
    return VisionTransformer.load(folder, name=title, revision=revision, layers=layers, grid=grid, device=device)


def _repository(name: Name, model: str | None) -> str:
    return model or REPOSITORIES[name]


def _check_model(name: Name, model: str | None) -> None:
    if name not in get_args(Name):
        raise SettingsError(f"no backbone is called {name}; there are {', '.join(get_args(Name))}")
    if name == "vit" and model is None:
        raise SettingsError("backbone vit needs --model (M2N2_MODEL): a hub id or a folder of a vision transformer")
    if name in ("auto", "color") and model is not None:
        raise SettingsError(f"--model (M2N2_MODEL) has no meaning for backbone {name}: name vit, sd2, sd1 or dinov2")
