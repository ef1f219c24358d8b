"""The backbones that are measured beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from m2n2_backend.errors import SettingsError
from m2n2_backend.settings import BackboneName, Settings


def chosen_backbones(settings: Settings, asked: Sequence[str]) -> list[Settings]:
    """The settings of each backbone, with its own weights and layers.

    A single backbone has the settings' model and layers. Where there are several, these belong to ``vit``, and
    another one names its own weights as ``NAME=MODEL``.

    Args:
        asked: ``NAME`` or ``NAME=MODEL`` each; none means the settings' own backbone.

    Raises:
        SettingsError: A name is unknown, a backbone is named twice, or weights belong to no backbone.
    """
    if not asked:
        return [settings]
    if len(set(asked)) < len(asked):
        raise SettingsError(f"a --backbone is given twice: {', '.join(asked)}")
    parsed = [(name, model or None) for name, _, model in (text.partition("=") for text in asked)]
    known = get_args(BackboneName)
    for name, _ in parsed:
        if name not in known:
            raise SettingsError(f"no backbone is called {name}; there are {', '.join(known)}")
    several = len(parsed) > 1
    if several and (settings.model or settings.layers) and "vit" not in {name for name, _ in parsed}:
        raise SettingsError(
            "with several backbones, --model and --layers (M2N2_MODEL, M2N2_LAYERS) belong to vit, which is not "
            "among them: write --backbone NAME=MODEL"
        )
    found = []
    for name, model in parsed:
        update: dict[str, Any] = {"backbone": name, "model": model}
        if not several or name == "vit":
            update["model"] = model or settings.model
        elif several:
            update["layers"] = None
        found.append(settings.model_copy(update=update))
    return found
