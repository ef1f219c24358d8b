"""What Stable Diffusion 2 takes of an accelerator at the paper's grid, counted at its full topology."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from counted_memory import DEVICE, counted_memory

from m2n2_backend.backbones import random_models
from m2n2_backend.backbones.device_memory import bytes_needed
from m2n2_backend.m2n2.markov import markov_maps
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.segmenter import Segmenter, _transition

GIB = 1024**3


def weightless(model: Any, _seed: int, dtype: torch.dtype) -> Any:
    """Parameters of the right shapes that take no memory until they are moved."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                nothing = torch.zeros((), dtype=dtype).expand(parameter.shape)
                module._parameters[name] = torch.nn.Parameter(nothing, requires_grad=False)
    return model.eval()


def test_the_papers_grid_fits_a_card_of_8_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_models, "_fill", weightless)
    rgb = np.random.default_rng(0).integers(0, 255, (480, 854, 3), np.uint8)

    with counted_memory() as memory:
        segmenter = Segmenter(
            random_models.random_stable_diffusion("sd2", grid=128, device=DEVICE), Method(half=True)
        )
        model = memory.live
        segmenter.encode(rgb)  # and let go again, as caches do before the next one is built
        state = segmenter.encode(rgb)
        held = memory.live - model
        first = memory.peak
        encoded = segmenter.extract(rgb)  # the model runs for the next image while clicks go on in this one
        beside = memory.peak
        del encoded

        memory.restart()
        with torch.inference_mode():
            markov_maps(_transition(state), torch.zeros(8, 128 * 128, device=DEVICE), max_iterations=32)
            _transition(state).step(torch.zeros(2, 128 * 128, device=DEVICE))  # as a box does
        clicked = memory.peak - model - held

    figures = {"model": model, "state": held, "peak": first, "peak beside a state": beside}
    print(", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in figures.items()))
    assert 1.6 * GIB < model < 1.8 * GIB
    assert held == state.relation.nbytes <= 1.1 * GIB
    assert first <= beside <= 5 * GIB
    assert beside <= bytes_needed(128) <= 6 * GIB
    assert clicked <= 0.1 * GIB
