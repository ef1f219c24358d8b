"""The grid that free memory chose once stays: another one would give other masks, and a cold cache."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import torch

from m2n2_backend.backbones.registry import backbone_loader, resolve_device
from m2n2_backend.m2n2.attention import Backbone
from m2n2_backend.settings import Settings

logger = logging.getLogger(__name__)


def load_with_kept_grid(settings: Settings, device: str) -> Backbone:
    """Load the backbone of the settings on a device; where they name no grid, with the one first chosen for its kind.

    The choice is a file in the cache folder, one for each backbone, model and kind of device. Removing it lets the
    next start choose again; ``M2N2_GRID`` goes before it.

    Raises:
        BackboneUnavailable: Weights, device or memory are missing; the message names the cure.
        SettingsError: ``model`` is missing where it is needed, or given where it has no meaning.
    """
    where = resolve_device(device)
    if settings.grid is not None or where.type == "cpu":
        return backbone_loader(settings, device)()
    path = settings.cache_dir / "grids" / _name(settings, where)
    kept = _read(path)
    backbone = _load(settings, device, kept)
    own = getattr(backbone, "grid", None)
    if own is None or kept is not None:
        return backbone
    kept = keep_first(path, own)
    if kept == own:
        return backbone
    del backbone  # another worker of this kind was faster, and had more memory or less
    return _load(settings, device, kept)


def keep_first(path: Path, grid: int) -> int:
    """Write a choice, unless there is one; the one that holds from now on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
        temporary.write_text(str(grid), encoding="ascii")
        try:
            os.link(temporary, path)  # fails where the name is taken, and is never seen half written
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        logger.warning("the grid %d cannot be kept in %s: %s", grid, path.parent, error.strerror)
    return _read(path) or grid


def _load(settings: Settings, device: str, grid: int | None) -> Backbone:
    return backbone_loader(settings.model_copy(update={"grid": grid}), device)()


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _name(settings: Settings, device: torch.device) -> str:
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    chosen = f"{settings.backbone} {settings.model} {settings.layers} {kind}"
    return f"{settings.backbone}-{hashlib.sha256(chosen.encode()).hexdigest()[:16]}"
