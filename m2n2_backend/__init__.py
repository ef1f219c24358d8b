"""M2N2: clicks to masks without training, served to Label Studio.

Source of the method: Karmann & Urfalioglu, "Repurposing Stable Diffusion Attention for Training-Free
Unsupervised Interactive Segmentation", CVPR 2025.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2n2_backend.backbones.registry import load_backbone
    from m2n2_backend.m2n2.hyperparameters import Hyperparameters
    from m2n2_backend.m2n2.segmentation import Segmentation
    from m2n2_backend.m2n2.segmenter import Segmenter
    from m2n2_backend.prompts import Box, Click, Polygon, Scribble

__version__ = "0.2.0"

__all__ = [
    "Box",
    "Click",
    "Hyperparameters",
    "Polygon",
    "Scribble",
    "Segmentation",
    "Segmenter",
    "__version__",
    "load_backbone",
]

_PLACES = {
    "Box": "prompts",
    "Click": "prompts",
    "Hyperparameters": "m2n2.hyperparameters",
    "Polygon": "prompts",
    "Scribble": "prompts",
    "Segmentation": "m2n2.segmentation",
    "Segmenter": "m2n2.segmenter",
    "load_backbone": "backbones.registry",
}


def __getattr__(name: str) -> object:
    """The names of the Python API, loaded when they are first asked for: PyTorch takes seconds."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
