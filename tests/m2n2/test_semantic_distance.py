from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, scene
from random_chains import random_attention
from shared_data import grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny

from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.attention import aggregate
from m2n2_backend.m2n2.paper.markov import markov_maps
from m2n2_backend.m2n2.paper.transition import transition_matrix
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.semantic_distance import (
    ATTENTION_TEMPERATURE,
    KL_CLIP,
    KL_TEMPERATURE,
    AttentionDistance,
    DivergenceDistance,
    MarkovDistance,
    tempered,
)
from m2n2_backend.prompts import Click

FIRST = torch.eye(30)[:1]


def divergences(attention: torch.Tensor, cell: int) -> np.ndarray:
    """KL(a‖b) + KL(b‖a) of one row with every row, written out."""
    rows = np.clip(attention.double().numpy(), 1e-5, 1.0)
    own = rows[cell]
    return np.array([(own * np.log(own / row)).sum() + (row * np.log(row / own)).sum() for row in rows])


def test_the_baselines_parameters_are_those_of_the_paper() -> None:
    assert (ATTENTION_TEMPERATURE, KL_TEMPERATURE, KL_CLIP) == (10.0, 2.0, 1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_the_temperature_is_a_softmax_over_the_logarithms(temperature: float) -> None:
    attention = random_attention(30)

    sharp = tempered(attention, temperature)

    powers = attention.double() ** (1 / temperature)
    torch.testing.assert_close(sharp.double(), powers / powers.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-7)


def test_attention_nn_ranks_cells_by_the_attention_of_the_prompt() -> None:
    attention = random_attention(30)

    distance = AttentionDistance(attention).maps(FIRST)[0]

    assert distance.min() == 0.0
    assert (distance.argsort() == (-attention[0]).argsort()).all()
    torch.testing.assert_close(distance, attention[0].max() - attention[0])


def test_kl_nn_is_the_symmetric_divergence_between_rows() -> None:
    attention = random_attention(30, spread=2.0)

    distance = DivergenceDistance.of(attention).maps(FIRST)[0].numpy()

    np.testing.assert_allclose(distance, divergences(attention, 0), rtol=1e-3, atol=1e-5)
    assert distance[0] == pytest.approx(0.0, abs=1e-5)
    assert (distance >= 0).all()


def test_kl_nn_is_finite_where_attention_is_0() -> None:
    distance = DivergenceDistance.of(torch.eye(30)).maps(FIRST)

    assert torch.isfinite(distance).all()
    assert distance[0, 1] > 1.0


def test_the_markov_relation_gives_the_maps_of_its_chain() -> None:
    transition = transition_matrix(random_attention(30))

    relation = MarkovDistance(transition, tau=0.4, max_iterations=9)

    torch.testing.assert_close(relation.maps(FIRST), markov_maps(transition, FIRST, tau=0.4, max_iterations=9))


def test_relations_know_their_bytes() -> None:
    attention = random_attention(30)

    assert AttentionDistance(attention).nbytes == 30 * 30 * 4
    assert DivergenceDistance.of(attention).nbytes == 2 * 30 * 30 * 4
    assert MarkovDistance(transition_matrix(attention, doublings=2), 0.3, 1000).nbytes == 3 * 30 * 30 * 4


@pytest.mark.parametrize("relation", ["markov", "attention", "kl"])
@pytest.mark.parametrize("flood_fill", [True, False])
def test_every_variant_of_the_paper_answers_a_click(relation: str, flood_fill: bool) -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(relation=relation, flood_fill=flood_fill))

    result = segmenter.segment(segmenter.encode(scene()), [Click(22, 30), Click(50, 5, positive=False)])

    assert result.mask[30, 22]
    assert not result.mask[5, 50]


def test_the_flood_fill_tells_twins_apart() -> None:
    flooded, plain = (Segmenter(FakeBackbone(20, 20), Hyperparameters(flood_fill=on)) for on in (True, False))
    click = Click(22, 30)

    lifted = flooded.prompt_map(flooded.encode(scene()), click).levels[30, 67]
    bare = plain.prompt_map(plain.encode(scene()), click).levels[30, 67]

    assert lifted > bare


@needs_grabcut
@needs_vit_tiny
def test_kl_nn_on_real_attention_equals_the_divergences_written_out() -> None:
    attention = tempered(aggregate(vit_tiny().features(grabcut_photograph("124080")), "cpu"), KL_TEMPERATURE)

    distance = DivergenceDistance.of(attention).maps(torch.eye(1600)[777:778])[0].numpy()

    expected = divergences(attention, 777)
    assert np.abs(distance - expected).max() <= 1e-3 * expected.max()
