"""The released code's steps, each beside a plain version of what is known of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from shared_data import grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny

from m2n2_backend.errors import InvalidPrompt, SettingsError
from m2n2_backend.evaluation import reference as plain
from m2n2_backend.m2n2.hyperparameters import Hyperparameters, with_values
from m2n2_backend.m2n2.paper.flood_fill import exact_flood, stable_sort
from m2n2_backend.m2n2.paper.markov import markov_maps
from m2n2_backend.m2n2.paper.threshold import Scores
from m2n2_backend.m2n2.paper.transition import transition_matrix
from m2n2_backend.m2n2.places import Placed
from m2n2_backend.m2n2.prompt_maps import start_at
from m2n2_backend.m2n2.released.chain import crossing_as_released, plain_sweeps
from m2n2_backend.m2n2.released.steps import RankedMap, best_threshold, integer_gradient, nearest_prompt, ranked_map
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click

Floats = NDArray[np.floating]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (17, 31), (89, 59), (45, 30)])
def test_a_chain_starts_in_four_cells_with_bilinear_weights(x: int, y: int) -> None:
    segmenter = Segmenter(FakeBackbone(10, 14), Hyperparameters.released())
    state = segmenter.encode(scene(60, 90))

    start = start_at(state, (y, x))

    field = np.zeros((10, 14))
    for cell, weight in start:
        field[divmod(cell, 14)] += weight
    assert field.sum() == pytest.approx(1.0)
    assert (field.sum(axis=1) * np.arange(10)).sum() == pytest.approx(9 * y / 60)
    assert (field.sum(axis=0) * np.arange(14)).sum() == pytest.approx(13 * x / 90)
    assert (np.count_nonzero(field, axis=0) <= 2).all()


def random_chain(cells: int, seed: int) -> Floats:
    attention = np.random.default_rng(seed).gamma(0.3, size=(cells, cells)) + 1e-3
    return plain.sinkhorn(attention, tolerance=1e-12, max_sweeps=2000)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 99))
def test_the_first_step_is_interpolated_as_if_every_cell_grew_alike(cells: int, seed: int) -> None:
    matrix = random_chain(cells, seed)
    transition = transition_matrix(torch.tensor(matrix, dtype=torch.float32), temperature=1.0, doublings=0)
    start = np.zeros(cells)
    start[:2] = 0.8, 0.2

    ours = markov_maps(transition, torch.tensor(start, dtype=torch.float32)[None], crossing=crossing_as_released)[
        0
    ].numpy()

    state = start / start.max()
    expected = np.where(state > 0.3, 0.0, 1000.0)
    for step in range(1, 1001):
        following = state @ matrix
        following /= following.max()
        for cell in np.flatnonzero((following > 0.3) & (expected == 1000.0)):
            growth = 0.7 if step == 1 else following[cell] - state[cell]
            expected[cell] = step - (following[cell] - 0.3) / (growth + 1e-6)
        state = following
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=2e-3)


def test_two_hundred_plain_sweeps_end_with_the_rows() -> None:
    attention = np.random.default_rng(3).gamma(0.2, size=(30, 30)) + 1e-6
    expected = attention ** (1 / 0.65)
    expected /= expected.sum(axis=1, keepdims=True)
    for _ in range(200):
        expected /= expected.sum(axis=0, keepdims=True)
        expected /= expected.sum(axis=1, keepdims=True)

    given = torch.tensor(attention, dtype=torch.float32)
    transition = transition_matrix(given, tolerance=0.0, max_sweeps=200, doublings=0, fit=plain_sweeps)

    assert transition.sweeps == 200
    np.testing.assert_allclose(transition.matrix, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(transition.matrix.sum(dim=1), 1.0, atol=1e-5)


few_values = st.tuples(st.integers(2, 7), st.integers(2, 7)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0, 3.0]))
)


@settings(max_examples=80, deadline=None)
@given(few_values)
def test_the_exact_flood_is_the_reconstruction_by_erosion(values: Floats) -> None:
    flooded = exact_flood(values, 1, 0)

    assert (flooded == plain.flood(values, 1, 0).astype(np.float32)).all()
    order, ordered = stable_sort(values)
    assert (order == np.argsort(values, axis=None, kind="stable")).all()
    assert (ordered == np.sort(values, axis=None)).all()


def test_the_gradient_is_a_whole_number_of_1024_steps_with_reflected_borders() -> None:
    values = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    padded = np.pad(values.astype(np.float64), 1, mode="reflect")
    right, down = padded[:, 2:] - padded[:, :-2], padded[2:] - padded[:-2]
    magnitude = np.hypot(right[:-2] + 2 * right[1:-1] + right[2:], down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:])

    gradient = integer_gradient(values)

    assert gradient.max() == 1024
    assert np.abs(gradient - np.floor(1024 * magnitude / magnitude.max())).max() <= 1


def segments(own: RankedMap) -> list[NDArray[np.bool_]]:
    """The segment of every rank but the last."""
    order = np.argsort(own.distance, axis=None, kind="stable")
    found = []
    for rank in range(own.distance.size - 1):
        inside = np.zeros(own.distance.size, np.bool_)
        inside[order[: rank + 1]] = True
        found.append(inside.reshape(own.distance.shape))
    return found


@settings(max_examples=60, deadline=None)
@given(few_values)
def test_the_edge_of_a_rank_is_the_mean_gradient_just_outside_of_its_segment(values: Floats) -> None:
    own = ranked_map(values, 0, 1)

    assert own.distance.max() in (0.0, 1.0)
    gradient = integer_gradient(own.distance)
    for rank, inside in enumerate(segments(own)):
        around = np.pad(inside, 1)
        near = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
        assert own.edge[rank] == pytest.approx(gradient[near & ~inside].mean())


@settings(max_examples=150, deadline=None)
@given(
    few_values,
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=3),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=3),
    st.tuples(*[st.booleans()] * 4),
)
def test_the_threshold_is_the_value_of_the_first_rank_with_the_best_score(
    values: Floats,
    same_points: Sequence[tuple[int, int]],
    other_points: Sequence[tuple[int, int]],
    switches: tuple[bool, bool, bool, bool],
) -> None:
    own = ranked_map(values, 0, 1)
    same = [float(own.distance[point]) for point in [(0, 1), *same_points]]
    other = [float(own.distance[point]) for point in other_points]
    used = Scores(*switches)

    chosen = best_threshold(own, same, other, scores=used, prior=0.4)

    count = own.distance.size - 1
    shares, all_scores = np.linspace(0.0, 1.0, count, dtype=np.float32), []
    for rank in range(count):
        value = own.ordered[rank]
        score = np.float32(1.0)
        score *= shares[rank] < 0.4 if used.prior else 1
        score *= own.edge[rank] if used.edge else 1
        score *= np.float32(np.mean([point <= value for point in same])) if used.pos else 1
        score *= value < min([*other, own.distance.max()]) if used.neg else 1
        all_scores.append(score)
    expected = max(float(own.ordered[int(np.argmax(all_scores))]), 1e-7) if any(switches) else 0.5
    assert chosen == pytest.approx(expected)


def test_a_plateau_may_be_cut_by_the_prior_and_its_segment_exceed_it() -> None:
    values = np.full((10, 10), 0.5, np.float32)
    values[0, 0] = 0.0
    values[9] = 1.0
    own = ranked_map(values, 0, 0)

    threshold = best_threshold(own, [0.0, 0.5], [], scores=Scores(edge=False), prior=0.4)

    assert threshold == 0.5
    assert (own.distance <= threshold).mean() == 0.9


def test_a_click_that_no_rank_suits_selects_its_own_pixel() -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters.released())
    state = segmenter.encode(scene())

    clicks = [Click(22, 30), Click(22, 30, positive=False), Click(68, 30)]
    result = segmenter.segment(state, clicks)

    assert result.thresholds[0] == result.thresholds[1] == pytest.approx(1e-7)
    assert not result.mask[30, 22]  # of two labels at one pixel the later is written
    assert result.mask[30, 68]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 99))
def test_the_first_of_the_nearest_prompts_decides_and_prompts_have_their_own_label(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    maps = [RankedMap(generator.integers(0, 4, (5, 6)).astype(np.float32) / 4, *[np.zeros(0, np.float32)] * 2)
            for _ in range(count)]  # fmt: skip
    thresholds = [float(value) for value in generator.choice([0.25, 0.5, 1.0], count)]
    labels = [bool(value) for value in generator.integers(0, 2, count)]
    points = [(int(row), int(col)) for row, col in generator.integers(0, 5, (count, 2))]

    prompts = [Placed(point, label) for point, label in zip(points, labels, strict=True)]

    mask = nearest_prompt(maps, thresholds, prompts) <= 1.0

    for pixel in np.ndindex(5, 6):
        distances = [own.distance[pixel] / threshold for own, threshold in zip(maps, thresholds, strict=True)]
        expected = labels[int(np.argmin(distances))] and min(distances) <= 1.0
        for point, label in zip(points, labels, strict=True):
            expected = label if point == pixel else expected
        assert mask[pixel] == expected


def test_what_the_released_code_lacks_is_refused() -> None:
    with pytest.raises(SettingsError, match="refine"):
        with_values(Hyperparameters.released(), ["refine=true"])
    segmenter = Segmenter(FakeBackbone(), Hyperparameters.released())
    with pytest.raises(InvalidPrompt, match="no boxes"):
        segmenter.segment(segmenter.encode(scene()), [], Box(3, 3, 30, 40))


def test_the_papers_map_of_a_click_does_not_take_the_place_of_the_ranked_one() -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters.released())
    state, click = segmenter.encode(scene()), Click(22, 30)

    own = segmenter.prompt_map(state, click)

    assert own.levels[30, 22] == 0
    assert segmenter.segment(state, click).mask[30, 22]
    assert segmenter.prompt_map(state, click) is own
    assert len(state.clicks) == 2


def test_masks_do_not_depend_on_what_was_asked_before() -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters.released())
    state, clicks = segmenter.encode(scene()), [Click(22, 30), Click(68, 30), Click(45, 5, positive=False)]

    step_by_step = [segmenter.segment(state, clicks[:count]).mask for count in (1, 2, 3)]

    fresh = segmenter.segment(segmenter.encode(scene()), clicks)
    assert (step_by_step[-1] == fresh.mask).all()
    assert fresh.mask[30, 22]
    assert fresh.mask[30, 68]
    assert not fresh.mask[5, 45]


@needs_grabcut
@needs_vit_tiny
def test_on_a_photograph_an_accelerated_fit_gives_the_masks_of_200_plain_sweeps() -> None:
    rgb = np.ascontiguousarray(grabcut_photograph("124080")[::2, ::2])
    clicks = [Click(120, 80), Click(20, 20, positive=False)]
    exact = Segmenter(vit_tiny(), Hyperparameters.released())
    quick = Segmenter(vit_tiny(), with_values(Hyperparameters.released(), ["ipf=accelerated", "tolerance=1e-6"]))

    masks = [each.segment(each.encode(rgb), clicks).mask for each in (exact, quick)]

    assert (masks[0] == masks[1]).mean() > 0.999
