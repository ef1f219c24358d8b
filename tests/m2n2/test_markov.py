from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_chains import random_attention
from shared_data import grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.evaluation.reference import markov_map
from m2n2_backend.m2n2.paper.attention import aggregate
from m2n2_backend.m2n2.paper.markov import MAX_ITERATIONS, TAU, markov_maps
from m2n2_backend.m2n2.paper.transition import Transition, transition_matrix


def ring(cells: int, stay: float = 0.5) -> torch.Tensor:
    """A slow doubly stochastic chain: half stays, a quarter goes to each neighbor."""
    matrix = stay * torch.eye(cells)
    for shift in (1, -1):
        matrix += (1 - stay) / 2 * torch.eye(cells).roll(shift, dims=1)
    return matrix


def chain(matrix: torch.Tensor, doublings: int = 0, *, between: bool = True) -> Transition:
    """With the powers between P and the last one, as on a CPU, or without, as on an accelerator."""
    exponents = tuple(2**k for k in range(doublings + 1) if between or k in (0, doublings))
    powers = [torch.linalg.matrix_power(matrix.double(), exponent).float() for exponent in exponents]
    return Transition(tuple(powers), exponents, sweeps=0, residual=0.0)


def one_hot(*cells: int, size: int) -> torch.Tensor:
    return torch.eye(size)[list(cells)]


def test_tau_and_iterations_are_those_of_the_paper() -> None:
    assert (TAU, MAX_ITERATIONS) == (0.3, 1000)


@settings(max_examples=40, deadline=None)
@given(
    cells=st.integers(1, 25),
    seed=st.integers(0, 999),
    start=st.integers(0, 24),
    tau=st.floats(0.1, 0.9),
    sharp=st.floats(0.3, 2.0),
)
def test_a_map_equals_the_chain_run_step_by_step(cells: int, seed: int, start: int, tau: float, sharp: float) -> None:
    transition = transition_matrix(random_attention(cells, seed), temperature=sharp)
    start %= cells

    ours = markov_maps(transition, one_hot(start, size=cells), tau=tau)[0].numpy()

    plain = markov_map(transition.matrix.double().numpy(), start, tau=tau)
    np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-3)
    assert ours[start] == 0.0
    assert ours.min() >= 0.0
    assert ours.max() <= MAX_ITERATIONS


@pytest.mark.parametrize("doublings", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("limit", [1, 7, 60, 1000])
@pytest.mark.parametrize("between", [True, False])
def test_blocks_of_steps_with_powers_equal_single_steps(doublings: int, limit: int, between: bool) -> None:
    matrix = ring(60)
    starts = one_hot(5, size=60)

    blocks = markov_maps(chain(matrix, doublings, between=between), starts, max_iterations=limit)[0].numpy()

    plain = markov_map(matrix.double().numpy(), 5, max_iterations=limit)
    np.testing.assert_allclose(blocks, plain, rtol=1e-3)
    assert blocks.max() == pytest.approx(min(limit, plain.max()), rel=1e-3)


@pytest.mark.parametrize("doublings", [0, 1, 3])
def test_a_batch_of_chains_equals_each_chain_alone(doublings: int) -> None:
    transition = chain(ring(40), doublings)
    starts = torch.cat([one_hot(0, 7, 39, size=40), torch.full((1, 40), 1 / 40)])

    together = markov_maps(transition, starts)

    for index in range(len(starts)):
        torch.testing.assert_close(
            together[index], markov_maps(transition, starts[index : index + 1])[0], rtol=1e-4, atol=1e-4
        )


def test_the_crossing_is_interpolated_between_its_two_steps() -> None:
    stay, go = 0.8, 0.2
    matrix = torch.tensor([[stay, go], [go, stay]])

    reached = float(markov_maps(chain(matrix), one_hot(0, size=2))[0, 1])

    # p_1 = (0.8, 0.2), p_2 = (0.68, 0.32): the ratio rises from 0.25 to 0.4706 in the second step
    assert reached == pytest.approx(1 + (0.3 - 0.25) / (0.32 / 0.68 - 0.25), rel=1e-5)


def test_a_cell_reached_in_the_first_step_counts_from_step_0() -> None:
    matrix = torch.tensor([[0.6, 0.4], [0.4, 0.6]])

    reached = float(markov_maps(chain(matrix), one_hot(0, size=2))[0, 1])

    assert reached == pytest.approx(0.3 / (0.4 / 0.6), rel=1e-5)


@pytest.mark.parametrize("doublings", [0, 2])
def test_cells_that_are_never_reached_get_the_largest_number_of_iterations(doublings: int) -> None:
    matrix = torch.block_diag(torch.full((2, 2), 0.5), torch.full((3, 3), 1 / 3))

    reached = markov_maps(chain(matrix, doublings), one_hot(0, size=5), max_iterations=50)[0]

    assert reached[2:].tolist() == [50.0] * 3
    assert reached[0] == 0.0
    assert 0.0 < reached[1] <= 1.0


def test_stopping_once_all_cells_are_reached_changes_nothing() -> None:
    matrix = ring(20)
    cut_off = torch.block_diag(matrix, torch.eye(1))  # the extra cell is never reached: this chain runs to the end

    early = markov_maps(chain(matrix), one_hot(3, size=20))[0]
    late = markov_maps(chain(cut_off), one_hot(3, size=21))[0]

    torch.testing.assert_close(early, late[:20])
    assert early.max() < 100 < late[20]


@pytest.mark.parametrize("doublings", [0, 1, 3])
def test_no_block_of_steps_is_made_after_all_cells_are_reached(
    monkeypatch: pytest.MonkeyPatch, doublings: int
) -> None:
    made: list[torch.Tensor] = []
    all_steps = Transition.distributions

    def counted(transition: Transition, starts: torch.Tensor) -> Iterator[torch.Tensor]:
        for p in all_steps(transition, starts):
            made.append(p)
            yield p

    monkeypatch.setattr(Transition, "distributions", counted)
    reached = markov_maps(chain(ring(20), doublings), one_hot(3, size=20))

    last = int(np.ceil(float(reached.max())))
    assert last < len(made) <= last + 2**doublings


@pytest.mark.parametrize("between", [True, False])
@pytest.mark.parametrize("doublings", [0, 1, 3])
def test_the_distributions_are_the_powers_of_the_matrix_applied_to_the_start(doublings: int, between: bool) -> None:
    matrix = ring(12)
    starts = one_hot(3, 7, size=12)

    made = islice(chain(matrix, doublings, between=between).distributions(starts), 21)

    for step, p in enumerate(made):
        torch.testing.assert_close(p, starts @ torch.linalg.matrix_power(matrix, step), rtol=1e-4, atol=1e-6)


def test_cells_above_the_threshold_at_the_start_are_0() -> None:
    starts = torch.tensor([[0.5, 0.4, 0.1, 0.0]])

    reached = markov_maps(chain(ring(4)), starts)[0]

    assert reached[:2].tolist() == [0.0, 0.0]
    assert (reached[2:] > 0).all()


def test_a_chain_on_one_cell_has_nothing_to_reach() -> None:
    assert markov_maps(chain(torch.ones(1, 1)), torch.ones(1, 1)).tolist() == [[0.0]]


@needs_grabcut
@needs_vit_tiny
@pytest.mark.parametrize("doublings", [0, 1])
def test_real_maps_equal_the_chain_run_step_by_step(doublings: int) -> None:
    attention = aggregate(vit_tiny().features(grabcut_photograph("124080")), "cpu")
    transition = transition_matrix(attention, doublings=doublings)
    exact = transition.powers[0].double().numpy()
    cells = [0, 39, 777, 820, 1599]

    maps = markov_maps(transition, one_hot(*cells, size=1600)).numpy()

    for cell, own in zip(cells, maps, strict=True):
        plain = markov_map(exact, cell)
        assert np.abs(own - plain).max() <= 1e-3 * plain.max()
        assert own[cell] == 0.0


def deviations(half: torch.Tensor, single: torch.Tensor) -> torch.Tensor:
    """By cell, as a share of each map's range: what decides how far a threshold in it moves."""
    return (half - single).abs() / single.amax(dim=1, keepdim=True)


@pytest.mark.parametrize("spread", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("doublings", [0, 4])
def test_16_bit_powers_give_maps_within_one_percent_of_32_bit_ones(spread: float, doublings: int) -> None:
    attention = random_attention(300, seed=1, spread=spread)
    starts = torch.eye(300)[[0, 77, 299]]
    single = markov_maps(transition_matrix(attention.clone(), doublings=0), starts)

    transition = transition_matrix(attention.clone(), doublings=doublings, half=True)

    assert {power.dtype for power in transition.powers} == {torch.float16}
    found = deviations(markov_maps(transition, starts), single)
    # A cell whose probability only just touches the threshold and falls again is reached then or much later.
    assert found.quantile(0.995) <= 1e-2
    exact = transition_matrix(attention.clone()).matrix
    torch.testing.assert_close(transition.matrix, exact, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(transition.step(starts), starts @ exact, atol=1e-6, rtol=2e-3)


def staying(shares: torch.Tensor, seed: int, spread: float) -> torch.Tensor:
    """Attention of cells that keep given shares of it for themselves, float32 [n, n]."""
    attention = random_attention(len(shares), seed=seed, spread=spread).fill_diagonal_(0.0)
    attention *= (1.0 - shares)[:, None] / attention.sum(dim=1, keepdim=True)
    return attention + torch.diag(shares)


@settings(max_examples=25)
@given(st.integers(0, 999), st.floats(0.5, 3.0), st.floats(1.0, 4.0), st.floats(0.0, 1.0), st.sampled_from([0, 4]))
def test_16_bit_powers_give_maps_within_one_percent_where_cells_attend_to_themselves(
    seed: int, spread: float, nines: float, mixed: float, doublings: int
) -> None:
    drawn = torch.rand(60, generator=torch.Generator().manual_seed(seed))
    attention = staying(1.0 - 10.0 ** -(nines * (1.0 - mixed * drawn)), seed, spread)  # 0.9 to 0.9999 at most
    starts = torch.eye(60)[[0, 29, 59]]
    options = {"temperature": 1.0, "doublings": doublings}
    single = markov_maps(transition_matrix(attention.clone(), half=False, **options), starts)

    half = markov_maps(transition_matrix(attention.clone(), half=True, **options), starts)

    assert deviations(half, single).max() <= 1e-2


@needs_grabcut
@pytest.mark.parametrize("stem", ["person1", "person7"])
def test_16_bit_powers_hold_for_chains_of_hundreds_of_steps(stem: str) -> None:
    features = ColorAffinity().features(grabcut_photograph(stem))
    starts = torch.eye(1600)[[820, 100, 1500]]
    single = markov_maps(transition_matrix(aggregate(features, "cpu"), doublings=3), starts)

    half = markov_maps(transition_matrix(aggregate(features, "cpu"), doublings=4, half=True), starts)

    assert single.max() > 200
    assert deviations(half, single).max() <= 1e-2
