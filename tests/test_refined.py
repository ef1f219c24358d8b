from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.refined import Bits, distance_of
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click
from tests.fake_backbone import FakeBackbone

REFINED = Method(refine=True, least_cells=4.0, despeckle=1e-4)
PAPER = Method(least_cells=4.0, despeckle=1e-4)
CLICKS = (Click(30, 40), Click(75, 30, positive=False), Click(60, 60), Click(12, 70, positive=False), Click(80, 66))


def photograph() -> NDArray[np.uint8]:
    """Two disks on a background, all noisy."""
    y, x = np.mgrid[:80, :96]
    rgb = np.full((80, 96, 3), (70, 120, 60), np.float64)
    rgb[(y - 40) ** 2 + (x - 30) ** 2 < 20**2] = (200, 80, 60)
    rgb[(y - 50) ** 2 + (x - 72) ** 2 < 15**2] = (60, 80, 200)
    return (rgb + np.random.default_rng(7).normal(0, 10, rgb.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(FakeBackbone(), REFINED)


def mask_of(segmenter: Segmenter, clicks: tuple[Click, ...], box: Box | None = None) -> NDArray[np.bool_]:
    """In a state that has seen nothing else."""
    return segmenter.segment(segmenter.encode(photograph()), clicks, box).mask


def test_masks_one_by_one_equal_those_asked_for_at_once(segmenter: Segmenter) -> None:
    state = segmenter.encode(photograph())
    for count in range(1, len(CLICKS) + 1):
        step_by_step = segmenter.segment(state, CLICKS[:count])
        at_once = segmenter.segment(segmenter.encode(photograph()), CLICKS[:count])
        assert np.array_equal(step_by_step.mask, at_once.mask)
        assert step_by_step.thresholds == at_once.thresholds
        assert step_by_step.score == at_once.score


def test_a_new_click_costs_one_step(segmenter: Segmenter) -> None:
    state = segmenter.encode(photograph())
    segmenter.segment(state, CLICKS[:3])
    assert len(state.steps) == 3
    segmenter.segment(state, CLICKS[:4])
    assert len(state.steps) == 4
    segmenter.segment(state, CLICKS[:4])
    assert len(state.steps) == 4


@pytest.mark.parametrize("gone", range(1, len(CLICKS)))
def test_after_an_earlier_click_is_deleted_the_mask_is_that_of_the_clicks_left(
    segmenter: Segmenter, gone: int
) -> None:
    state = segmenter.encode(photograph())
    segmenter.segment(state, CLICKS)
    left = CLICKS[:gone] + CLICKS[gone + 1 :]
    assert np.array_equal(segmenter.segment(state, left).mask, mask_of(segmenter, left))
    assert len(state.steps) == len(CLICKS) + len(left) - gone  # the common prefix is not computed again


def test_every_clicked_pixel_has_the_label_of_its_click(segmenter: Segmenter) -> None:
    mask = mask_of(segmenter, CLICKS)
    assert [bool(mask[click.y, click.x]) for click in CLICKS] == [click.positive for click in CLICKS]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 95), st.integers(0, 79), st.booleans()), min_size=1, max_size=6))
def test_clicked_pixels_keep_their_label_whatever_the_clicks(places: list[tuple[int, int, bool]]) -> None:
    segmenter = Segmenter(FakeBackbone(), REFINED)
    unique = {(x, y): positive for x, y, positive in places}
    clicks = (Click(48, 40), *(Click(x, y, label) for (x, y), label in unique.items() if (x, y) != (48, 40)))
    mask = mask_of(segmenter, clicks)
    # The discs of later clicks may take in earlier ones, the last one never loses.
    assert bool(mask[clicks[-1].y, clicks[-1].x]) == clicks[-1].positive


def test_a_click_that_agrees_leaves_the_mask_as_it_is(segmenter: Segmenter) -> None:
    state = segmenter.encode(photograph())
    before = segmenter.segment(state, CLICKS[:1]).mask
    rows, cols = np.nonzero(before)
    inside = Click(int(cols[5]), int(rows[5]))
    rows, cols = np.nonzero(~before)
    outside = Click(int(cols[9]), int(rows[9]), positive=False)
    assert np.array_equal(segmenter.segment(state, (CLICKS[0], inside)).mask, before)
    assert np.array_equal(segmenter.segment(state, (CLICKS[0], outside)).mask, before)


def test_background_clicks_before_any_foreground_are_answered_with_the_first_foreground_click(
    segmenter: Segmenter,
) -> None:
    state = segmenter.encode(photograph())
    segmenter.segment(state, (CLICKS[1], CLICKS[3], CLICKS[0]))
    assert len(state.steps) == 1


def test_a_box_alone_stays_inside_and_clicks_after_it_refine_it(segmenter: Segmenter) -> None:
    box = Box(6, 14, 56, 66)
    state = segmenter.encode(photograph())
    alone = segmenter.segment(state, (), box).mask
    outside = np.ones_like(alone)
    outside[box.y0 : box.y1, box.x0 : box.x1] = False
    assert alone.any()
    assert not (alone & outside).any()
    with_click = segmenter.segment(state, (Click(72, 50),), box).mask
    assert with_click[50, 72]
    assert len(state.steps) == 2


def test_without_refining_masks_are_the_papers_and_nothing_is_remembered_of_the_order() -> None:
    segmenter = Segmenter(FakeBackbone(), PAPER)
    state = segmenter.encode(photograph())
    mask = segmenter.segment(state, CLICKS).mask
    assert len(state.steps) == 0
    assert np.array_equal(mask, segmenter.segment(state, tuple(reversed(CLICKS))).mask)


def test_a_reduced_photograph_gets_a_mask_of_its_own_size() -> None:
    segmenter = Segmenter(FakeBackbone(), Method(refine=True, working_size=48))
    mask = mask_of(segmenter, CLICKS[:2])
    assert mask.shape == (80, 96)
    assert mask[40, 30]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
def test_the_distance_is_at_most_one_exactly_in_the_mask_and_bits_survive_packing(
    seed: int, height: int, width: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    assert np.array_equal(distance_of(mask) <= 1.0, mask)
    assert np.array_equal(Bits.of(mask).unpacked(), mask)
