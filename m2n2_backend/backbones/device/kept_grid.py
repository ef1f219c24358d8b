"""The grid that free memory chose once stays: another one would give other masks, and a cold cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from m2n2_backend.backbones.stable_diffusion import StableDiffusion
from m2n2_backend.files import create_file

logger = logging.getLogger(__name__)


def load_with_kept_grid(path: Path, load: Callable[[int | None], StableDiffusion]) -> StableDiffusion:
    """Load a model with the grid that was first chosen for it.

    Args:
        path: The file that holds the choice, see :func:`choice_file`. Removing it lets the next start choose again.
        load: Loads with a grid; with None by the memory that is free.
    """
    kept = _read(path)
    if kept is not None:
        logger.info("the attention grid is %d, as %s says", kept, path)
        return load(kept)
    model = load(None)
    kept = keep_first(path, model.grid)
    if kept == model.grid:
        return model
    del model  # another process of this kind was faster, and had more memory or less
    return load(kept)


def choice_file(cache_dir: Path, name: str, revision: str, device: torch.device) -> Path:
    """Where the choice for some weights on a kind of device is kept, whatever the settings call these weights.

    Args:
        name: ``sd1`` or ``sd2``.
        revision: What tells these weights from others.
        device: Any device of its kind.
    """
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "mps":
        kind = "mps up to 96"  # choices of earlier releases may be larger, which Metal does not survive
    return cache_dir / "grids" / f"{name}-{hashlib.sha256(f'{revision} {kind}'.encode()).hexdigest()[:16]}"


def keep_first(path: Path, grid: int) -> int:
    """Write a choice, unless there is one; the one that holds from now on."""
    try:
        create_file(path, str(grid).encode())
    except OSError as error:
        logger.warning("the grid %d cannot be kept in %s: %s", grid, path.parent, error.strerror)
    return _read(path) or grid


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
