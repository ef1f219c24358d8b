from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from m2n2_backend.evaluation.reference import flood
from m2n2_backend.m2n2.paper.flood_fill import LEVELS, flood_fill, quantize

Case = tuple[NDArray[np.float32], int, int]


@st.composite
def maps_and_points(draw: st.DrawFn) -> Case:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    values = st.one_of(st.just(0.0), st.floats(2**-20, 1000, width=32))
    markov = draw(arrays(np.float32, shape, elements=values))
    return markov, draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))


def algorithm_1(markov: np.ndarray, row: int, col: int) -> np.ndarray:
    """The paper's Algorithm 1 with a priority queue."""
    result = np.full(markov.shape, np.inf)
    queue = [(0.0, row, col)]
    while queue:
        cost, y, x = heapq.heappop(queue)
        if result[y, x] < np.inf:
            continue
        result[y, x] = cost
        for i, j in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= i < markov.shape[0] and 0 <= j < markov.shape[1] and result[i, j] == np.inf:
                heapq.heappush(queue, (max(cost, abs(float(markov[i, j]) - float(markov[row, col]))), i, j))
    return result


@settings(max_examples=150, deadline=None)
@given(maps_and_points())
def test_the_flood_is_within_one_level_of_algorithm_1_and_of_the_exact_reconstruction(case: Case) -> None:
    markov, row, col = case

    flooded = flood_fill(markov, row, col)

    values = flooded.levels * flooded.step
    np.testing.assert_allclose(values, algorithm_1(markov, row, col), atol=flooded.step)
    np.testing.assert_allclose(values, flood(markov.astype(np.float64), row, col), atol=flooded.step)


@settings(max_examples=100, deadline=None)
@given(maps_and_points())
def test_the_flood_is_0_at_the_prompt_and_never_below_the_cost_of_a_pixel(case: Case) -> None:
    markov, row, col = case

    flooded = flood_fill(markov, row, col)

    assert flooded.levels[row, col] == 0
    cost = np.abs(markov.astype(np.float64) - markov[row, col])
    # half a level of quantization, and the rounding of 32-bit
    assert (flooded.levels * flooded.step >= cost - 0.51 * flooded.step).all()


@settings(max_examples=60, deadline=None)
@given(maps_and_points(), st.integers(0, 65535))
def test_every_threshold_gives_one_region_that_holds_the_prompt(case: Case, level: int) -> None:
    markov, row, col = case

    inside = flood_fill(markov, row, col).levels <= level

    reached = np.zeros_like(inside)
    reached[row, col] = True
    while True:
        padded = np.pad(reached, 1)
        wider = inside & (
            padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        )
        if (wider == reached).all():
            break
        reached = wider
    assert (reached == inside).all()


def test_a_minimum_elsewhere_is_lifted_to_the_pass_before_it() -> None:
    markov = np.array([[0, 1, 7, 2, 0]], np.float32)

    flooded = flood_fill(markov, 0, 0)

    np.testing.assert_allclose(flooded.levels[0] * flooded.step, [0, 1, 7, 7, 7], atol=flooded.step)


def test_the_flood_does_not_pass_diagonally() -> None:
    markov = np.array([[0, 9], [9, 0]], np.float32)

    flooded = flood_fill(markov, 0, 0)

    assert flooded.levels[1, 1] == LEVELS - 1


def test_what_lies_below_the_prompt_costs_as_much_as_what_lies_above() -> None:
    markov = np.array([[3, 1, 5]], np.float32)

    flooded = flood_fill(markov, 0, 0)

    np.testing.assert_allclose(flooded.levels[0] * flooded.step, [0, 2, 2], atol=flooded.step)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_constant_map_is_reached_at_once(value: float) -> None:
    flooded = flood_fill(np.full((4, 6), value, np.float32), 2, 3)

    assert not flooded.levels.any()
    assert flooded.step > 0


def test_the_levels_span_the_range_of_the_map() -> None:
    markov = (1000 * np.random.default_rng(0).random((30, 40))).astype(np.float32)

    flooded = quantize(markov, float(markov[3, 4]))

    cost = np.abs(markov - markov[3, 4])
    assert flooded.levels.max() == LEVELS - 1
    np.testing.assert_allclose(flooded.levels * flooded.step, cost, atol=0.51 * flooded.step)


def test_without_a_flood_minima_elsewhere_stay() -> None:
    assert quantize(np.array([[0, 1, 7, 2, 0]], np.float32), 0.0).levels[0, 4] == 0


def test_a_large_map_equals_the_exact_reconstruction() -> None:
    y, x = np.mgrid[:240, :320]
    markov = (50 + 30 * np.sin(y / 17) * np.cos(x / 23) + 0.1 * x).astype(np.float32)

    flooded = flood_fill(markov, 100, 200)

    np.testing.assert_allclose(
        flooded.levels * flooded.step, flood(markov.astype(np.float64), 100, 200), atol=flooded.step
    )


@pytest.mark.parametrize(("row", "col"), [(0, 0), (0, 39), (29, 0), (29, 39)])
def test_a_prompt_in_a_corner_reaches_the_whole_map(row: int, col: int) -> None:
    markov = (10 * np.random.default_rng(1).random((30, 40))).astype(np.float32)

    flooded = flood_fill(markov, row, col)

    np.testing.assert_allclose(
        flooded.levels * flooded.step, flood(markov.astype(np.float64), row, col), atol=flooded.step
    )
