from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_flow

from m2n2_backend.m2n2.refine.min_cut import STEPS, min_cut


def random_graph(
    inside: NDArray[np.bool_], rng: np.random.Generator, top: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Unary terms, neighbors and capacities on some pixels, in the form ``min_cut`` takes."""
    index = np.full(np.add(inside.shape, 2), -1, np.int32)
    index[1:-1, 1:-1][inside] = np.arange(np.count_nonzero(inside))
    rows, cols = np.nonzero(inside)
    near = index[rows[:, None] + 1 + STEPS[:, 0], cols[:, None] + 1 + STEPS[:, 1]]
    capacity = np.zeros_like(near)
    for node, direction in zip(*np.nonzero(near >= 0), strict=True):
        if node < near[node, direction]:
            value = rng.integers(0, top)
            capacity[node, direction] = capacity[near[node, direction], direction ^ 1] = value
    return rng.integers(-top, top + 1, len(near)).astype(np.int32), near, capacity


def energy(
    unary: NDArray[np.int32], near: NDArray[np.int32], capacity: NDArray[np.int32], label: NDArray[np.bool_]
) -> int:
    """The definition."""
    alone = np.where(label, np.maximum(-unary, 0), np.maximum(unary, 0)).sum()
    apart = (near >= 0) & (label[:, None] != label[near])
    return int(alone + capacity[apart].sum() // 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3))
def test_no_labeling_has_less_energy_and_no_best_one_fewer_foreground_pixels(seed: int, rows: int, cols: int) -> None:
    rng = np.random.default_rng(seed)
    inside = rng.random((rows, cols)) < 0.8
    inside[0, 0] = True
    graph = random_graph(inside, rng, 12)
    every = [np.array(label) for label in itertools.product([False, True], repeat=len(graph[0]))]
    best = min((energy(*graph, label), int(label.sum())) for label in every)
    found = min_cut(*graph)
    assert (energy(*graph, found), int(found.sum())) == best


@pytest.mark.parametrize("seed", range(8))
def test_the_cut_costs_what_scipy_says_flows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    unary, near, capacity = random_graph(rng.random((25, 35)) < 0.8, rng, 100)
    n = len(unary)
    node, direction = np.nonzero(near >= 0)
    plus, minus = np.flatnonzero(unary > 0), np.flatnonzero(unary < 0)
    tails = np.concatenate([node, np.full(plus.size, n), minus])
    heads = np.concatenate([near[node, direction], plus, np.full(minus.size, n + 1)])
    room = np.concatenate([capacity[node, direction], unary[plus], -unary[minus]]).astype(np.int32)
    graph = coo_array((room, (tails, heads)), shape=(n + 2, n + 2)).tocsr()
    assert energy(unary, near, capacity, min_cut(unary, near, capacity)) == maximum_flow(graph, n, n + 1).flow_value


def test_the_arguments_are_left_alone() -> None:
    graph = random_graph(np.ones((5, 6), np.bool_), np.random.default_rng(1), 20)
    before = [part.copy() for part in graph]
    min_cut(*graph)
    assert all(np.array_equal(part, old) for part, old in zip(graph, before, strict=True))


def test_without_any_preference_everything_is_background() -> None:
    _, near, capacity = random_graph(np.ones((3, 3), np.bool_), np.random.default_rng(2), 9)
    assert not min_cut(np.zeros(9, np.int32), near, capacity).any()
