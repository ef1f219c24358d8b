"""Full-size backbones on the fake CUDA device: the memory of an image, and how often a prompt waits."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from transformers import Dinov2Config, Dinov2Model

from fake_cuda import DEVICE, FakeCuda, fake_cuda
from m2n2_backend.backbones import random_models, vit
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Box, Click

STEPS = 160
"""Steps of every chain here: it walks to its end, as it never reaches a cell."""

T = TypeVar("T")
Waits = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Counted:
    """Bytes on the device.

    Attributes:
        model: What the weights take.
        encode: The most while an image is encoded, the model included.
        beside: The same while the state of another image is kept.
        prepare: What building a state takes for a while, at most.
        state: What a state keeps.
        told: What it says that it keeps.
    """

    model: int
    encode: int
    beside: int
    prepare: int
    state: int
    told: int

    @property
    def peak(self) -> int:
        """The most that one image takes, alone or beside another image's state."""
        return max(self.beside, self.model + self.prepare)


@dataclass(frozen=True)
class Prompted:
    """How often prompts wait for the device.

    Attributes:
        click: Waits of a new click.
        clicks: Waits of as many more new clicks as run together.
        box: Waits of a box whose cells do not settle.
        peak: Bytes that they took for a while, at most.
    """

    click: Waits
    clicks: Waits
    box: Waits
    peak: int


def readable(function: Callable[..., T], *args: object) -> T:
    """The function's result; PyTorch's errors of fake tensors cannot be sent to another process."""
    try:
        return function(*args)
    except Exception:
        raise AssertionError(traceback.format_exc()) from None


def count(guard: Path, name: str, grid: int, half: bool) -> Counted:
    """Encode two images.

    Args:
        guard: Library of :func:`fake_cuda.build_guard`.
        name: sd2, sd1 or dinov2.
        grid: Cells per side.
        half: Whether powers are kept in 16-bit.
    """
    with fake_cuda(guard) as device:
        return _count(device, Segmenter(_backbone(name, grid), Hyperparameters(half=half)))


def count_waits(guard: Path, name: str, grid: int) -> Prompted:
    """Click and draw a box on one image.

    Args:
        guard: Library of :func:`fake_cuda.build_guard`.
        name: sd2, sd1 or dinov2.
        grid: Cells per side.
    """
    with fake_cuda(guard) as device:
        segmenter = Segmenter(_backbone(name, grid), Hyperparameters(max_iterations=STEPS))
        return _prompt(device, segmenter, segmenter.encode(_photograph()))


def mismatch(guard: Path) -> str:
    """PyTorch's error if a tensor was left on the CPU; empty without an error."""
    with fake_cuda(guard):
        try:
            torch.ones(3) + torch.ones(3, device=DEVICE)
        except RuntimeError as error:
            return str(error)
    return ""


def _count(device: FakeCuda, segmenter: Segmenter) -> Counted:
    model = device.live
    encoded = segmenter.extract(_photograph())
    encode, features = device.peak, device.live - model
    encoded = encoded.to("cpu")  # as the engine keeps it
    device.restart()
    state = segmenter.prepare(encoded)
    prepare, held = device.peak - model, device.live - model
    device.restart()
    segmenter.extract(_photograph())
    return Counted(model, encode, device.peak, max(prepare, features), held, state.device_bytes)


def _prompt(device: FakeCuda, segmenter: Segmenter, state: ImageState) -> Prompted:
    before = device.live
    device.restart()
    segmenter.segment(state, [Click(400, 200)])
    click = device.waits
    device.restart()
    segmenter.segment(state, [Click(20 * number + 5, 300) for number in range(8)])
    clicks, peak = device.waits, device.peak
    device.restart(truth=False)  # so that no round is the last
    segmenter.segment(state, box=Box(100, 100, 500, 400))
    return Prompted(click, clicks, device.waits, max(peak, device.peak) - before)


def _photograph() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (480, 854, 3), np.uint8)


def _backbone(name: str, grid: int) -> Backbone:
    if name == "dinov2":
        return _dinov2_base(grid)
    with mock.patch.object(random_models, "_fill", _weightless):
        return random_models.random_stable_diffusion("sd1" if name == "sd1" else "sd2", grid=grid, device=DEVICE)


def _dinov2_base(grid: int) -> Backbone:
    with torch.device("meta"):
        model = Dinov2Model(Dinov2Config(patch_size=14, image_size=518))  # the rest is base already
    # The backbone's trial on noise needs numbers: one special token and twelve layers.
    tried = {"check_tokens": lambda *_, **__: 1, "check_layers": lambda *_, **__: ([11], 12)}
    with mock.patch.multiple(vit, **tried):
        return vit.VisionTransformer(
            _weightless(model, 0, torch.float32),
            name="dinov2-base",
            revision="random",
            layers=None,
            grid=grid,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            device=DEVICE,
        )


def _weightless(model: Any, _seed: int, dtype: torch.dtype) -> Any:
    """Parameters of the right shapes that take no memory until they are moved."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                nothing = torch.zeros((), dtype=dtype).expand(parameter.shape)
                module._parameters[name] = torch.nn.Parameter(nothing, requires_grad=False)
    return model.eval()
