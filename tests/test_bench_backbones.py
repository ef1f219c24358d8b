"""How the benchmark splits a model into its steps, and what it says of chains in blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shared_data import needs_vit_tiny, vit_tiny

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.backbones.random_models import random_stable_diffusion
from m2n2_backend.commands.bench.encode_steps import encode_times
from m2n2_backend.commands.bench.parts import blocks_deviation, measure_parts
from m2n2_backend.commands.bench.photographs import jpeg, photograph
from m2n2_backend.commands.bench.plain import PlainEffort
from m2n2_backend.commands.bench.sweep import fits
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.segmenter import Segmenter


def _times(segmenter: Segmenter) -> dict[str, Any]:
    rgb = photograph(64, 48)
    return encode_times(segmenter, jpeg(rgb), segmenter.extract(rgb), 1)


def test_stable_diffusion_is_split_into_vae_and_unet() -> None:
    segmenter = Segmenter(random_stable_diffusion("sd2", grid=8, tiny=True))

    times = _times(segmenter)

    assert list(times["model"]) == ["input", "vae", "unet"]
    assert all(milliseconds > 0 for milliseconds in times["model"].values())
    assert times["features"] == pytest.approx(sum(times["model"].values()))


@needs_vit_tiny
def test_a_vit_is_split_into_its_input_and_its_forward_pass() -> None:
    times = _times(Segmenter(vit_tiny()))

    assert list(times["model"]) == ["input", "forward"]


def test_stable_diffusion_with_random_weights_is_measured_with_few_candidates_and_no_dense_guidance() -> None:
    backbone = random_stable_diffusion("sd2", grid=8, tiny=True)

    parts = measure_parts(
        backbone, Method(), size=(48, 36), repeats=1, encode_repeats=1, effort=PlainEffort(1, 5, dense=False)
    )

    assert parts["straightforward"]["candidates"] == 5
    assert (parts["straightforward"]["click_dense"], parts["ratio"]["click_dense"]) == (None, None)
    assert parts["ratio"]["click_dense"] is None
    assert parts["ratio"]["new_click"] > 0


@pytest.mark.parametrize("doublings", [1, 3])
def test_a_chain_in_blocks_deviates_by_rounding_only(doublings: int) -> None:
    segmenter = Segmenter(ColorAffinity(grid=12), Method(doublings=doublings))

    deviation = blocks_deviation(segmenter.encode(photograph(64, 48)))

    assert deviation is not None
    assert 0 < deviation < 1e-3


def test_a_chain_step_by_step_has_nothing_to_deviate_from() -> None:
    state = Segmenter(ColorAffinity(grid=12), Method(doublings=0)).encode(photograph(64, 48))

    assert blocks_deviation(state) is None


def test_a_grid_whose_matrices_are_larger_than_any_memory_does_not_fit() -> None:
    cpu = torch.device("cpu")

    assert fits(32, cpu)
    assert not fits(2000, cpu)
