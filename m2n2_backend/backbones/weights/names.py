"""Names of backbones and where their weights are, known without PyTorch: the web process checks them at its start."""

from __future__ import annotations

from typing import get_args

from m2n2_backend.backbones.weights.sources import REPOSITORIES, Kind, resolve
from m2n2_backend.errors import SettingsError
from m2n2_backend.settings import BackboneName


def kind_of(name: BackboneName) -> Kind:
    """Which files a backbone's weights consist of."""
    return "stable-diffusion" if name in ("sd1", "sd2") else "vit"


def repository_of(name: BackboneName, model: str | None) -> str:
    """Hub id or folder of a named backbone's weights."""
    return model or REPOSITORIES[name]


def check_backbone(name: BackboneName, *, model: str | None) -> None:
    """Find out, without loading anything or using the network, whether a named backbone's weights are on disk.

    ``auto`` and ``color`` are always available.

    Raises:
        BackboneUnavailable: They are not; the message names the command that gets them.
        SettingsError: ``model`` is missing where it is needed, or given where it has no meaning.
    """
    check_model(name, model)
    if name not in ("auto", "color"):
        resolve(repository_of(name, model), kind_of(name), local_only=True)


def check_model(name: BackboneName, model: str | None) -> None:
    """Check that name and model go together.

    Raises:
        SettingsError: The name is unknown, or ``model`` is missing where it is needed, or has no meaning.
    """
    if name not in get_args(BackboneName):
        raise SettingsError(f"no backbone is called {name}; there are {', '.join(get_args(BackboneName))}")
    if name == "vit" and model is None:
        raise SettingsError("backbone vit needs --model (M2N2_MODEL): a hub id or a folder of a vision transformer")
    if name in ("auto", "color") and model is not None:
        raise SettingsError(f"--model (M2N2_MODEL) has no meaning for backbone {name}: name vit, sd2, sd1 or dinov2")
