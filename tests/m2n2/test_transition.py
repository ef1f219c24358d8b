from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_chains import random_attention
from shared_data import grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny
from torch.overrides import TorchFunctionMode

from m2n2_backend.evaluation.reference import sharpen, sinkhorn
from m2n2_backend.m2n2.paper import half_powers
from m2n2_backend.m2n2.paper import transition as transition_module
from m2n2_backend.m2n2.paper.attention import aggregate
from m2n2_backend.m2n2.paper.transition import TEMPERATURE, transition_matrix


def test_the_temperature_is_the_one_of_the_paper() -> None:
    assert TEMPERATURE == 0.65


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(0, 999), st.floats(0.3, 12.0))
def test_the_matrix_equals_plain_sinkhorn_on_the_sharpened_attention(
    cells: int, seed: int, temperature: float
) -> None:
    attention = random_attention(cells, seed)

    transition = transition_matrix(attention.clone(), temperature=temperature, tolerance=1e-5)

    plain = sinkhorn(sharpen(attention.double().numpy(), temperature), tolerance=1e-9, max_sweeps=10_000)
    assert transition.residual <= 1e-5
    np.testing.assert_allclose(transition.powers[0].numpy(), plain, atol=2e-5)


def test_slow_matrices_take_less_than_a_third_of_the_sweeps_of_plain_ipf() -> None:
    place = torch.arange(200, dtype=torch.float32)
    color = (place > 120) * 3.0
    distance = (place[:, None] - place[None, :]) ** 2 / 40 + (color[:, None] - color[None, :]) ** 2
    attention = torch.softmax(-distance, dim=1)

    transition = transition_matrix(attention.clone())

    plain = sharpen(attention.double().numpy(), TEMPERATURE)
    for _ in range(3 * transition.sweeps):
        plain /= plain.sum(axis=0, keepdims=True)
        plain /= plain.sum(axis=1, keepdims=True)
    plain /= plain.sum(axis=0, keepdims=True)
    assert transition.residual <= 1e-4
    assert np.abs(plain.sum(axis=1) - 1).max() > 2e-4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 999))
def test_rows_and_columns_sum_to_1_after_ipf(cells: int, seed: int) -> None:
    transition = transition_matrix(random_attention(cells, seed))
    matrix = transition.powers[0]

    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(dim=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(matrix.sum(dim=1), 1.0, atol=1.2e-4)
    assert float((matrix.sum(dim=1) - 1).abs().max()) == pytest.approx(transition.residual, abs=1e-5)


def test_what_the_cap_on_sweeps_leaves_undone_is_in_the_residual() -> None:
    attention = random_attention(40, spread=1.5)

    capped = transition_matrix(attention.clone(), max_sweeps=2)
    full = transition_matrix(attention.clone())

    assert capped.sweeps == 2
    assert capped.residual > 1e-4
    assert float((capped.powers[0].sum(dim=1) - 1).abs().max()) == pytest.approx(capped.residual, rel=1e-3)
    np.testing.assert_allclose(capped.powers[0].sum(dim=0), 1.0, atol=1e-5)
    assert full.residual <= 1e-4
    assert full.sweeps > 2


def test_a_tighter_tolerance_takes_more_sweeps_and_is_reached() -> None:
    loose = transition_matrix(random_attention(40, spread=1.5), tolerance=1e-2)
    tight = transition_matrix(random_attention(40, spread=1.5), tolerance=1e-5)

    assert tight.residual <= 1e-5 < loose.residual <= 1e-2
    assert tight.sweeps > loose.sweeps


def test_a_matrix_that_is_doubly_stochastic_already_stays_as_it_is() -> None:
    uniform = torch.full((6, 6), 1 / 6)

    transition = transition_matrix(uniform.clone())

    torch.testing.assert_close(transition.powers[0], uniform)
    assert transition.sweeps == 1


def test_each_power_is_the_square_of_the_one_before() -> None:
    transition = transition_matrix(random_attention(20), doublings=3)
    first = transition.powers[0].double()

    assert transition.exponents == (1, 2, 4, 8)
    assert transition.nbytes == 4 * 20 * 20 * 4
    for exponent, power in zip(transition.exponents, transition.powers, strict=True):
        torch.testing.assert_close(power.double(), torch.linalg.matrix_power(first, exponent), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("doublings", [1, 2, 3, 4])
def test_an_accelerator_gets_to_the_last_power_without_keeping_those_between(doublings: int) -> None:
    first = transition_matrix(random_attention(20)).powers[0]

    last = transition_module._power(first, doublings)

    expected = torch.linalg.matrix_power(first.double(), 2**doublings)
    torch.testing.assert_close(last.double(), expected, atol=1e-6, rtol=1e-5)


def test_chunks_of_any_size_give_the_same_16_bit_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = transition_matrix(random_attention(50), doublings=2, half=True)
    monkeypatch.setattr(half_powers, "_CHUNK_BYTES", 7 * 4 * 50)

    cut = transition_matrix(random_attention(50), doublings=2, half=True)

    for one, other in zip(whole.powers, cut.powers, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=0.0)


def test_the_attention_is_freed_where_16_bit_matrices_take_its_place() -> None:
    attention = random_attention(20)

    transition_matrix(attention, half=True)

    assert attention.untyped_storage().nbytes() == 0


def test_products_of_16_bit_matrices_leave_the_process_as_it_was() -> None:
    products = torch.backends.cuda.matmul
    before = products.allow_fp16_reduced_precision_reduction
    seen = []

    class Spy(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if (
                func in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
                and args[0].dtype == torch.float16
            ):
                seen.append(products.allow_fp16_reduced_precision_reduction)
            return func(*args, **(kwargs or {}))

    with Spy():
        transition_matrix(random_attention(20), doublings=2, half=True).step(torch.eye(20))

    assert len(seen) == 3
    assert not any(seen)
    assert products.allow_fp16_reduced_precision_reduction == before


def test_attention_that_underflowed_to_0_still_gives_a_doubly_stochastic_matrix() -> None:
    attention = torch.full((8, 8), 1e-3)
    attention[:, 5] = 0.0  # no cell attends to this one
    attention[5, 5] = 1e-30

    transition = transition_matrix(attention)

    matrix = transition.powers[0]
    assert torch.isfinite(matrix).all()
    np.testing.assert_allclose(matrix.sum(dim=0), 1.0, atol=1e-4)


@pytest.mark.parametrize("row", [[0.0, 0.0], [float("nan"), 1.0]])
def test_a_row_of_zeros_or_a_nan_is_refused(row: list[float]) -> None:
    with pytest.raises(FloatingPointError, match="row of zeros or a non-finite"):
        transition_matrix(torch.tensor([row, [0.5, 0.5]]))


@needs_grabcut
@needs_vit_tiny
def test_real_attention_equals_plain_sinkhorn() -> None:
    attention = aggregate(vit_tiny().features(grabcut_photograph("124080")), "cpu")
    plain = sinkhorn(sharpen(attention.double().numpy(), TEMPERATURE), tolerance=1e-3, max_sweeps=300)

    transition = transition_matrix(attention)

    matrix = transition.powers[0].numpy()
    assert transition.residual <= 1e-3
    assert np.abs(matrix - plain).max() <= 1e-3 * plain.max()
    assert np.abs(matrix - plain).sum(axis=1).max() < 1e-3
