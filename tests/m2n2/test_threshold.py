from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from shared_data import grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny

from m2n2_backend.evaluation import reference as plain
from m2n2_backend.m2n2.paper.nearest import nearest_neighbor
from m2n2_backend.m2n2.paper.threshold import PRIOR, Scores, choose_threshold, profile
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click

ONLY_EDGE = Scores(prior=False, pos=False, neg=False)


def plateaus() -> NDArray[np.uint16]:
    """A prompt on a small object with a weak edge, on a larger one with a strong edge: 2 → 9 → 300."""
    levels = np.full((20, 20), 300, np.uint16)
    levels[4:13, 4:13] = 9
    levels[6:10, 6:10] = 2
    levels[7, 7] = 0
    return levels


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda shape: arrays(np.uint16, shape, elements=st.integers(0, 9))
    )
)
def test_area_and_edge_of_every_threshold_equal_those_of_its_mask(levels: NDArray[np.uint16]) -> None:
    own = profile(levels)

    gradient = plain.sobel_magnitude(levels.astype(float))
    for level in [*range(12), 65535]:
        inside = levels <= level
        edge = plain.score(levels.astype(float), gradient, level, [0], [], prior=2.0)
        assert own.area[level] == pytest.approx(inside.mean())
        assert own.edge[level] == pytest.approx(edge, rel=1e-5, abs=1e-5)


@st.composite
def flooded_with_points(draw: st.DrawFn) -> tuple[NDArray[np.uint16], list[int], list[int]]:
    shape = draw(st.tuples(st.integers(2, 12), st.integers(2, 12)))
    levels = draw(arrays(np.uint16, shape, elements=st.integers(0, 40)))
    points = st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1))
    own = draw(points)
    levels[own] = 0
    same = [0, *(int(levels[point]) for point in draw(st.lists(points, max_size=3)))]
    return levels, same, [int(levels[point]) for point in draw(st.lists(points, max_size=3))]


@settings(max_examples=150, deadline=None)
@given(flooded_with_points())
def test_no_threshold_scores_better_than_the_chosen_one(
    case: tuple[NDArray[np.uint16], list[int], list[int]],
) -> None:
    levels, same, other = case

    chosen = choose_threshold(profile(levels), same, other, scores=Scores())

    flooded = levels.astype(float)
    gradient = plain.sobel_magnitude(flooded)
    scores = [plain.score(flooded, gradient, level, same, other, prior=PRIOR) for level in range(1, 42)]
    best = max(scores)
    if best > 1e-6:
        assert scores[chosen - 1] == pytest.approx(best, rel=1e-5)
        assert all(score < best * (1 - 1e-6) or level >= chosen for level, score in enumerate(scores, start=1))
    else:
        stop = int((profile(levels).area < PRIOR).sum())
        assert chosen == max(0, min(stop, min(other, default=1)) - 1)


@settings(max_examples=80, deadline=None)
@given(flooded_with_points(), st.tuples(*[st.booleans()] * 4))
def test_dropping_scores_drops_their_factors(
    case: tuple[NDArray[np.uint16], list[int], list[int]], switches: tuple[bool, bool, bool, bool]
) -> None:
    levels, same, other = case
    used = Scores(*switches)
    own = profile(levels)

    chosen = choose_threshold(own, same, other, scores=used)

    def score(level: int) -> float:
        prior = float(own.area[level] < PRIOR) if used.prior else 1.0
        edge = float(own.edge[level]) if used.edge else 1.0
        pos = sum(value <= level for value in same) / len(same) if used.pos else 1.0
        neg = float(all(value > level for value in other)) if used.neg else 1.0
        return prior * edge * pos * neg

    scores = [score(level) for level in range(1, 65536, 1) if level < 50 or level > 65530]
    if max(scores) > 0:
        assert score(chosen) == pytest.approx(max(scores))


def test_the_edge_score_takes_the_strongest_edge() -> None:
    assert choose_threshold(profile(plateaus()), [0], [], scores=Scores()) == 9


def test_of_equally_good_thresholds_the_smallest_is_taken() -> None:
    own = profile(plateaus())

    assert own.edge[9] == own.edge[299]
    assert choose_threshold(own, [0], [], scores=ONLY_EDGE) == 9


def test_the_prior_forbids_40_percent_of_the_image_or_more() -> None:
    levels = np.full((10, 10), 1000, np.uint16)
    levels[:3] = 0
    levels[3] = 10  # 40 of 100 pixels, with the strongest edge beneath

    own = profile(levels)

    assert own.edge[10] > own.edge[1]
    assert choose_threshold(own, [0], [], scores=Scores()) == 1
    assert choose_threshold(own, [0], [], scores=Scores(prior=False)) == 10


def test_points_of_the_same_label_pull_the_threshold_to_where_they_lie_inside() -> None:
    levels = plateaus()
    levels[6:10, 6:10] = 0
    levels[4:13, 4:13][levels[4:13, 4:13] == 9] = 240  # now the inner edge is the stronger one
    own = profile(levels)

    assert choose_threshold(own, [0], [], scores=Scores()) == 1
    assert choose_threshold(own, [0, *[240] * 9], [], scores=Scores()) == 240
    assert choose_threshold(own, [0, *[240] * 9], [], scores=Scores(pos=False)) == 1


def test_no_point_of_the_other_label_lies_inside() -> None:
    own = profile(plateaus())

    assert choose_threshold(own, [0], [9], scores=Scores()) == 2
    assert choose_threshold(own, [0], [9], scores=Scores(neg=False)) == 9


def test_where_every_score_is_0_the_other_label_is_kept_out() -> None:
    own = profile(np.full((8, 8), 900, np.uint16))  # no edge at any level

    assert choose_threshold(own, [0], [], scores=Scores()) == 0
    assert choose_threshold(own, [0], [0], scores=Scores()) == 0
    assert choose_threshold(own, [0], [700], scores=Scores()) == 699


def test_where_every_score_is_0_a_speck_does_not_take_the_image() -> None:
    levels = np.ones((20, 20), np.uint16)  # all of it is nearly as near as the speck of the prompt
    levels[7, 7] = 0
    levels[0, 0] = 65535

    chosen = choose_threshold(profile(levels), [0], [65535], scores=Scores())

    assert (nearest_neighbor([levels], [chosen], [True]) <= 1).sum() == 1


@pytest.mark.parametrize("switches", list(product([True, False], repeat=4)))
def test_thresholds_stay_within_the_levels(switches: tuple[bool, bool, bool, bool]) -> None:
    extreme = np.array([[0, 65535], [65535, 65535]], np.uint16)

    for other in ([], [0], [1], [65535]):
        assert 0 <= choose_threshold(profile(extreme), [0, 65535], other, scores=Scores(*switches)) <= 65535


@needs_grabcut
@needs_vit_tiny
def test_on_a_photograph_the_threshold_is_the_one_of_one_mask_per_level() -> None:
    segmenter = Segmenter(vit_tiny())
    state = segmenter.encode(np.ascontiguousarray(grabcut_photograph("124080")[::3, ::3]))
    points = [(50, 70), (35, 90)]

    for row, col in points:
        levels = segmenter.prompt_map(state, Click(col, row)).levels
        same, other = [int(levels[50, 70]), int(levels[row, col])], [int(levels[3, 3])]
        chosen = choose_threshold(profile(levels), same, other, scores=Scores())
        flooded = levels.astype(float)
        candidates = np.unique(np.maximum(levels, 1)).astype(float)
        assert chosen == plain.best_threshold(flooded, candidates, same, other)


def small_sharp_object() -> NDArray[np.uint16]:
    """A prompt on a spot of 4 pixels with the strongest edge, on an object of 81 pixels with a weaker one."""
    levels = np.full((20, 20), 500, np.uint16)
    levels[4:13, 4:13] = 400
    levels[7:9, 7:9] = 0
    return levels


def test_segments_below_the_least_area_are_no_candidates() -> None:
    own = profile(small_sharp_object())
    assert choose_threshold(own, [0], [], scores=Scores()) < 400
    assert choose_threshold(own, [0], [], scores=Scores(), least_area=5 / 400) == 400


def test_a_point_of_the_other_label_counts_more_than_the_least_area() -> None:
    own = profile(small_sharp_object())
    assert choose_threshold(own, [0], [400], scores=Scores(), least_area=5 / 400) < 400
