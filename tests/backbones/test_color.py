"""The embedded default."""

from __future__ import annotations

import numpy as np
import torch

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.m2n2.paper.attention import aggregate


def halves() -> np.ndarray:
    """Left half red, right half blue."""
    rgb = np.zeros((60, 100, 3), np.uint8)
    rgb[:, :50] = (200, 30, 30)
    rgb[:, 50:] = (30, 30, 200)
    return rgb


def test_cells_attend_to_their_own_color() -> None:
    attention = aggregate(ColorAffinity(grid=10).features(halves()), "cpu").reshape(10, 10, 10, 10)
    assert attention[5, 2, :, :5].sum() > 0.999
    assert attention[5, 7, :, 5:].sum() > 0.999


def test_rows_sum_to_one_on_noise_and_on_a_plain_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    for rgb in (noise, np.full((5, 5, 3), 90, np.uint8)):
        attention = aggregate(ColorAffinity().features(rgb), "cpu")
        assert torch.allclose(attention.sum(1), torch.ones(1600), atol=1e-4)


def test_the_affinity_is_a_gaussian_of_the_descriptors_distance_in_the_mean_of_both_heads() -> None:
    block = ColorAffinity(grid=8).features(halves()).blocks[0]
    cells = block.queries[:, :, :-1].double()
    expected = torch.softmax(-0.5 * torch.cdist(cells, cells) ** 2, dim=2).mean(dim=0).float()
    assert torch.allclose(aggregate(ColorAffinity(grid=8).features(halves()), "cpu"), expected, atol=1e-5)


def test_one_head_prefers_cells_nearby_and_the_other_knows_no_place() -> None:
    plain = ColorAffinity(grid=8).features(np.full((64, 64, 3), 90, np.uint8)).blocks[0]
    near, anywhere = torch.softmax(plain.queries @ plain.keys.transpose(1, 2), dim=2)
    assert near[0, 1] > 10 * near[0, 7]
    assert torch.allclose(anywhere, torch.full((64, 64), 1 / 64))


def test_it_says_that_it_is_no_neural_network() -> None:
    assert "no neural network" in ColorAffinity().description
