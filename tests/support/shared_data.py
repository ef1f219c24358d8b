"""Real photographs and weights in ``../shared``, beside the checkout; tests that need them are skipped without it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from repository import ROOT

from m2n2_backend.backbones.vit import VisionTransformer

SHARED = ROOT.parent / "shared"
GRABCUT = SHARED / "data" / "grabcut"
VIT_TINY = SHARED / "weights" / "vit-tiny-patch16-224"

needs_grabcut = pytest.mark.skipif(
    not GRABCUT.is_dir(), reason="needs the GrabCut photographs in ../shared/data/grabcut"
)
needs_vit_tiny = pytest.mark.skipif(
    not VIT_TINY.is_dir(), reason="needs the weights in ../shared/weights/vit-tiny-patch16-224"
)


def grabcut_photograph(stem: str) -> NDArray[np.uint8]:
    """A photograph's RGB pixels, uint8 [H, W, 3]."""
    path = next((GRABCUT / "images").glob(f"{stem}.*"))
    return np.array(Image.open(path).convert("RGB"))


def grabcut_mask(stem: str) -> NDArray[np.uint8]:
    """A photograph's ground truth, uint8 [H, W]: 255 object, 0 background, 128 ignored."""
    return np.array(Image.open(GRABCUT / "masks" / f"{stem}.png"))


@functools.cache
def vit_tiny() -> VisionTransformer:
    """ViT-Tiny, read at layer 6 and grid 40, loaded once for all tests."""
    return VisionTransformer.load(
        VIT_TINY, name="vit-tiny", revision="test", layers=[6], grid=40, device=torch.device("cpu")
    )
