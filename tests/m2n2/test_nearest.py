from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2n2_backend.evaluation.reference import nearest
from m2n2_backend.m2n2.paper.nearest import nearest_neighbor


def full(*values: int) -> NDArray[np.uint16]:
    return np.array([values], np.uint16)


@settings(max_examples=200, deadline=None)
@given(
    labels=st.lists(st.booleans(), min_size=1, max_size=5).filter(any),
    seed=st.integers(0, 9999),
    top=st.sampled_from([3, 30, 65535]),
)
def test_the_mask_equals_the_argmin_form_with_ties_to_the_background(labels: list[bool], seed: int, top: int) -> None:
    generator = np.random.default_rng(seed)
    levels = [generator.integers(0, top, (9, 7), dtype=np.uint16, endpoint=True) for _ in labels]
    thresholds = [int(value) for value in generator.integers(1, top, len(labels), endpoint=True)]

    distance = nearest_neighbor(levels, thresholds, labels)

    plain = nearest([own.astype(float) for own in levels], thresholds, labels)
    exact = np.stack([own.astype(float) / value for own, value in zip(levels, thresholds, strict=True)])
    f, b = exact[labels].min(axis=0), exact[[not label for label in labels]].min(axis=0, initial=np.inf)
    tied = np.abs(f - b) <= 1e-6 * np.maximum(f, 1e-3)  # nearer than 32-bit can tell, and not the same
    different = (distance <= 1) != plain
    assert not (different & ~(tied & (f != b))).any()
    assert (distance >= 0).all()
    assert np.isfinite(distance).all()


def test_equal_ratios_of_different_thresholds_are_a_tie() -> None:
    foreground, background = full(18), full(21)
    assert nearest_neighbor([foreground, background], [24, 28], [True, False])[0, 0] > 1.0


@given(st.integers(1, 65535))
def test_a_pixel_at_the_threshold_is_inside_and_the_next_level_is_not(threshold: int) -> None:
    levels = full(threshold, min(threshold + 1, 65535))

    distance = nearest_neighbor([levels], [threshold], [True])

    assert distance[0, 0] <= 1.0
    assert threshold == 65535 or distance[0, 1] > 1.0


def test_a_tie_goes_to_the_background() -> None:
    levels = [full(0, 4, 8), full(0, 4, 8)]

    distance = nearest_neighbor(levels, [8, 8], [True, False])

    assert (distance > 1.0).all()


def test_a_background_prompt_out_of_reach_changes_nothing() -> None:
    near, far = full(0, 5, 10, 20), full(40, 35, 30, 20)

    alone = nearest_neighbor([near], [10], [True])
    with_far = nearest_neighbor([near, far], [10, 10], [True, False])

    assert (with_far == alone).all()
    assert (alone <= 1.0).tolist() == [[True, True, True, False]]


def test_where_both_reach_the_nearer_one_wins() -> None:
    distance = nearest_neighbor([full(0, 2, 6, 8), full(8, 6, 2, 0)], [10, 10], [True, False])

    assert (distance <= 1.0).tolist() == [[True, True, False, False]]


def test_the_distance_grows_steadily_across_the_border_between_the_labels() -> None:
    ramp = np.arange(0, 1001, dtype=np.uint16)[None]

    distance = nearest_neighbor([ramp, 1000 - ramp], [800, 800], [True, False])

    crossing = np.flatnonzero(np.diff((distance[0] <= 1.0).astype(int)))
    assert crossing.tolist() == [499]
    assert distance[0, 495:505] == pytest.approx(1.0, abs=0.03)


def test_a_box_is_one_more_foreground_distance() -> None:
    box = np.array([[0.5, 0.9, 1.5, np.inf]], np.float32)

    alone = nearest_neighbor([], [], [], box.copy())
    with_clicks = nearest_neighbor([full(50, 50, 50, 0), full(50, 2, 50, 50)], [10, 10], [True, False], box.copy())

    assert (alone <= 1.0).tolist() == [[True, True, False, False]]
    assert (with_clicks <= 1.0).tolist() == [[True, False, False, True]]


def test_the_maps_are_not_changed() -> None:
    levels = [full(0, 5), full(5, 0)]
    before = [own.copy() for own in levels]

    nearest_neighbor(levels, [3, 3], [True, False])

    assert all((own == kept).all() for own, kept in zip(levels, before, strict=True))


def test_the_order_of_the_prompts_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    prompts = [
        (generator.integers(0, 99, (8, 8), dtype=np.uint16), int(generator.integers(1, 99)), index % 2 == 0)
        for index in range(5)
    ]

    forwards, backwards = (
        nearest_neighbor(*map(list, zip(*order, strict=True))) for order in (prompts, prompts[::-1])
    )

    assert (forwards == backwards).all()


@pytest.mark.parametrize("labels", [[], [False]])
def test_without_foreground_there_is_no_distance(labels: list[bool]) -> None:
    with pytest.raises(ValueError, match="no foreground prompt"):
        nearest_neighbor([full(0, 1)] * len(labels), [1] * len(labels), labels)
