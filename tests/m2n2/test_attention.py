from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny

from m2n2_backend.evaluation.reference import attention_matrix
from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures, aggregate


def random_features(
    *,
    heads: int = 3,
    height: int = 4,
    width: int = 5,
    blocks: int = 2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> AttentionFeatures:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(blocks, generator=generator) + 0.1
    weights /= weights.sum()
    return AttentionFeatures(
        tuple(
            AttentionBlock(
                (2 * torch.randn(heads, height * width, 8, generator=generator)).to(dtype),
                (2 * torch.randn(heads, height * width, 8, generator=generator)).to(dtype),
                8**-0.5,
                float(weight),
            )
            for weight in weights
        ),
        height,
        width,
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_the_matrix_equals_the_rows_computed_one_by_one(
    heads: int, height: int, width: int, blocks: int, seed: int
) -> None:
    features = random_features(heads=heads, height=height, width=width, blocks=blocks, seed=seed)

    matrix = aggregate(features, "cpu").numpy()

    np.testing.assert_allclose(matrix, attention_matrix(features), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("chunk_bytes", [1, 20 * 4 * 3 * 7, 10**9])
def test_the_size_of_the_chunks_does_not_change_the_matrix(chunk_bytes: int) -> None:
    features = random_features()

    torch.testing.assert_close(aggregate(features, "cpu", chunk_bytes=chunk_bytes), aggregate(features, "cpu"))


def test_features_of_16_bit_are_aggregated_in_32_bit() -> None:
    features = random_features(dtype=torch.float16)

    matrix = aggregate(features, "cpu")

    assert matrix.dtype == torch.float32
    np.testing.assert_allclose(matrix.numpy(), attention_matrix(features), rtol=1e-4, atol=1e-8)


def test_special_tokens_take_their_share_before_the_mean_over_heads() -> None:
    plain = random_features(blocks=1, heads=3)
    block = plain.blocks[0]
    special = 3 * torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(5))

    matrix = aggregate(AttentionFeatures((replace(block, special=special),), 4, 5), "cpu")

    keys = torch.cat([block.keys, special], dim=1)
    patches = torch.softmax(block.queries @ keys.transpose(1, 2) * block.scale, dim=-1)[..., :20].mean(dim=0)
    torch.testing.assert_close(matrix, patches / patches.sum(dim=1, keepdim=True))
    assert not torch.allclose(matrix, aggregate(plain, "cpu"))


def test_a_softmax_in_16_bit_is_near_the_one_in_32_bit_and_its_rows_sum_to_1() -> None:
    features = random_features()

    half = aggregate(features, "cpu", half_softmax=True)

    torch.testing.assert_close(half.sum(dim=1), torch.ones(20))
    torch.testing.assert_close(half, aggregate(features, "cpu"), atol=2e-3, rtol=1e-2)
    assert not torch.equal(half, aggregate(features, "cpu"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["queries", "keys"])
def test_features_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    features = random_features()
    getattr(features.blocks[1], name)[2, 3, 1] = bad

    with pytest.raises(FloatingPointError, match="non-finite"):
        aggregate(features, "cpu")


def test_logits_far_apart_do_not_overflow() -> None:
    queries = torch.tensor([[[300.0], [-300.0]]])

    matrix = aggregate(AttentionFeatures((AttentionBlock(queries, queries, 1.0, 1.0),), 1, 2), "cpu")

    torch.testing.assert_close(matrix, torch.eye(2))


def test_features_know_their_cells_and_bytes() -> None:
    features = random_features(heads=3, height=4, width=5, blocks=2, dtype=torch.float16)

    assert features.cells == 20
    assert features.nbytes == 2 * 2 * (3 * 20 * 8) * 2


@needs_grabcut
@needs_vit_tiny
def test_real_attention_equals_the_rows_computed_one_by_one() -> None:
    features = vit_tiny().features(grabcut_photograph("124080"))

    matrix = aggregate(features, "cpu").numpy()

    expected = attention_matrix(features)
    np.testing.assert_allclose(matrix, expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
