"""``m2n2-backend fetch-weights``: which weights a backbone needs, and where they are afterwards."""

from __future__ import annotations

from pathlib import Path

from m2n2_backend.backbones.registry import kind_of, own_weights, resolve_device
from m2n2_backend.backbones.weights.sources import REPOSITORIES, resolve
from m2n2_backend.errors import SettingsError
from m2n2_backend.settings import Settings


def fetch_weights(settings: Settings) -> Path | None:
    """Download the weights into the Hugging Face cache, resuming what was begun.

    Returns:
        Their folder; None for a backbone that needs none.

    Raises:
        SettingsError: The backbone has no weights of its own, and no model is named.
        BackboneUnavailable: They cannot be downloaded.
    """
    name = settings.backbone
    repository = settings.model or own_weights(name, resolve_device(settings.device))
    if repository is None and name == "vit":
        raise SettingsError("backbone vit has no weights of its own; name them with --model")
    if repository is None:
        return None
    return resolve(repository, "stable-diffusion" if repository == REPOSITORIES["sd2"] else kind_of(name))
