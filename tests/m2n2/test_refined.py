from __future__ import annotations

import cv2
import numpy as np
import pytest
from fake_backbone import FakeBackbone, disks
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2n2_backend.backbones.color import BAND, ColorAffinity
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.nearest import nearest_neighbor
from m2n2_backend.m2n2.paper.threshold import choose_threshold
from m2n2_backend.m2n2.places import Place, level_at
from m2n2_backend.m2n2.postprocess import stability
from m2n2_backend.m2n2.prompt_maps import prompt_maps
from m2n2_backend.m2n2.refine.band import WIDTH
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.strategy import Paused
from m2n2_backend.prompts import Box, Click, Prompts

REFINED = Hyperparameters(refine=True, least_cells=4.0, despeckle=1e-4)
CLICKS = (Click(30, 40), Click(75, 30, positive=False), Click(60, 60), Click(12, 70, positive=False), Click(80, 66))


def photograph() -> NDArray[np.uint8]:
    return disks((40, 30, 20, (200, 80, 60)), (50, 72, 15, (60, 80, 200)))


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


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 95), st.integers(0, 79), st.booleans()), min_size=2, max_size=5))
def test_a_foreground_click_only_adds_and_a_background_click_only_removes(
    segmenter: Segmenter, further: list[tuple[int, int, bool]]
) -> None:
    state = segmenter.encode(photograph())
    clicks = (CLICKS[0], *(Click(x, y, positive=positive) for x, y, positive in further))
    before = segmenter.refined_step(state, Prompts(clicks[:1])).rough.unpacked()
    for count in range(2, len(clicks) + 1):
        after = segmenter.refined_step(state, Prompts(clicks[:count])).rough.unpacked()
        assert not (before & ~after if clicks[count - 1].positive else after & ~before).any()
        before = after


def test_a_new_click_costs_one_step(segmenter: Segmenter) -> None:
    state = segmenter.encode(photograph())
    segmenter.segment(state, CLICKS[:3])
    assert len(state.steps) == 3
    segmenter.segment(state, CLICKS[:4])
    assert len(state.steps) == 4
    segmenter.segment(state, CLICKS[:4])
    assert len(state.steps) == 4


def test_clicks_that_are_put_off_are_answered_by_the_next_call_from_there_on(segmenter: Segmenter) -> None:
    state, calls = segmenter.encode(photograph()), 0
    while True:
        calls += 1
        try:
            found = segmenter.segment(state, CLICKS, pause=lambda: True)
            break
        except Paused:
            assert len(state.steps) == calls
    assert calls == len(CLICKS)
    assert np.array_equal(found.mask, mask_of(segmenter, CLICKS))


def test_one_more_click_is_compared_with_each_earlier_one_once(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks = [Click(2 * number, 3 * number % 80, positive=number % 4 < 3) for number in range(40)]
    compared = 0

    def counted(levels: NDArray[np.uint16], place: Place) -> int:
        nonlocal compared
        compared += 1
        return level_at(levels, place)

    monkeypatch.setattr("m2n2_backend.m2n2.strategy.level_at", counted)
    segmenter.segment(segmenter.encode(photograph()), clicks)

    assert compared == len(clicks) ** 2


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


def test_an_earlier_click_that_moved_is_answered_from_the_longest_common_prefix(segmenter: Segmenter) -> None:
    state = segmenter.encode(photograph())
    segmenter.segment(state, CLICKS)
    moved = (*CLICKS[:2], Click(63, 57), *CLICKS[3:])
    assert np.array_equal(segmenter.segment(state, moved).mask, mask_of(segmenter, moved))
    assert len(state.steps) == len(CLICKS) + len(moved) - 2


def test_clicks_in_another_order_are_another_sequence_from_where_they_part(segmenter: Segmenter) -> None:
    state = segmenter.encode(photograph())
    segmenter.segment(state, CLICKS[:3])
    turned = (CLICKS[0], CLICKS[2], CLICKS[1])
    assert np.array_equal(segmenter.segment(state, turned).mask, mask_of(segmenter, turned))
    assert len(state.steps) == 3 + 2


def test_two_foreground_clicks_never_seen_one_by_one_are_answered_in_their_order(segmenter: Segmenter) -> None:
    both = (CLICKS[0], CLICKS[2])
    state = segmenter.encode(photograph())
    at_once = segmenter.segment(state, both).mask
    assert len(state.steps) == 2
    one_by_one = segmenter.encode(photograph())
    segmenter.segment(one_by_one, both[:1])
    assert np.array_equal(segmenter.segment(one_by_one, both).mask, at_once)


def test_several_boxes_are_one_first_prompt_and_a_click_after_them_is_the_next(segmenter: Segmenter) -> None:
    boxes = (Box(6, 14, 56, 66), Box(52, 30, 90, 70))
    state = segmenter.encode(photograph())
    alone = segmenter.segment(state, (), boxes).mask
    assert len(state.steps) == 1
    outside = np.ones_like(alone)
    for box in boxes:
        assert alone[box.y0 : box.y1, box.x0 : box.x1].any()
        outside[box.y0 : box.y1, box.x0 : box.x1] = False
    assert not (alone & outside).any()
    swapped = segmenter.segment(segmenter.encode(photograph()), (), boxes[::-1]).mask
    assert np.array_equal(swapped, alone)
    negative = segmenter.segment(state, (Click(72, 50, positive=False),), boxes).mask
    assert len(state.steps) == 2
    assert not negative[50, 72]
    assert negative[40, 30]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 40)])
@pytest.mark.parametrize("flat", [True, False])
def test_photographs_of_a_few_pixels_or_of_one_color_are_answered(shape: tuple[int, int], flat: bool) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    segmenter = Segmenter(FakeBackbone(), REFINED)
    state = segmenter.encode(np.full_like(rgb, 90) if flat else rgb)
    last = Click(shape[1] - 1, shape[0] - 1, positive=False)
    for clicks, box in (
        ((Click(0, 0),), None),
        ((Click(0, 0),) if last == Click(0, 0, positive=False) else (Click(0, 0), last), None),
        ((), Box(0, 0, shape[1], shape[0])),
    ):
        answer = segmenter.segment(state, clicks, box)
        assert answer.mask.shape == shape
        assert 0.0 <= answer.score <= 1.0
        assert all(answer.mask[click.y, click.x] == click.positive for click in clicks)


def test_a_gray_photograph_is_answered_with_finite_scores(segmenter: Segmenter) -> None:
    gray = np.repeat(photograph().mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    state = segmenter.encode(gray)
    for count in range(1, len(CLICKS) + 1):
        answer = segmenter.segment(state, CLICKS[:count])
        assert answer.mask[CLICKS[0].y, CLICKS[0].x]
        assert 0.0 <= answer.score <= 1.0


def test_the_band_is_the_methods_or_else_the_backbones() -> None:
    assert Segmenter(FakeBackbone()).band == WIDTH
    assert Segmenter(ColorAffinity()).band == BAND > WIDTH
    assert Segmenter(ColorAffinity(), Hyperparameters(band=0.25)).band == 0.25


@pytest.mark.parametrize("size", [(80, 96), (2000, 2400)], ids=["at working size", "four pixels to one"])
@pytest.mark.parametrize("apart", range(1, 6))
def test_a_background_click_beside_a_foreground_click_leaves_that_clicks_own_pixel(
    apart: int, size: tuple[int, int]
) -> None:
    method = Hyperparameters(refine=True, least_cells=4.0, despeckle=1e-4, working_size=96)
    segmenter = Segmenter(FakeBackbone(), method)
    rgb = cv2.resize(photograph(), size[::-1], interpolation=cv2.INTER_NEAREST)
    x, y = 30 * size[1] // 96, 40 * size[0] // 80
    clicks = [Click(x, y), Click(x + apart, y, positive=False)]
    mask = segmenter.segment(segmenter.encode(rgb), clicks).mask
    assert mask[y, x]
    assert not mask[y, x + apart]
    again = segmenter.segment(segmenter.encode(rgb), [*clicks, Click(x, y, positive=False)]).mask
    assert not again[y, x], "of two clicks on one pixel the later one counts"


def test_a_click_that_agrees_leaves_the_score_as_it_is_and_one_that_redraws_lowers_it(segmenter: Segmenter) -> None:
    state = segmenter.encode(photograph())
    first = segmenter.segment(state, CLICKS[:1])
    rows, cols = np.nonzero(first.mask)
    confirming = Click(int(cols[5]), int(rows[5]))
    assert segmenter.segment(state, (CLICKS[0], confirming)).score == first.score
    assert segmenter.segment(state, (CLICKS[0], CLICKS[2])).score < first.score


def test_without_refining_a_mask_is_composed_of_the_papers_steps_alone() -> None:
    off = Hyperparameters(refine=False, kappa=1.0, band=3.0, least_cells=4.0)
    segmenter = Segmenter(FakeBackbone(), off)
    state = segmenter.encode(photograph())
    answer = segmenter.segment(state, CLICKS)
    points, labels = [(click.y, click.x) for click in CLICKS], [click.positive for click in CLICKS]
    maps = prompt_maps(off, state, points)
    chosen = []
    for own, label in zip(maps, labels, strict=True):
        at = [int(own.levels[point]) for point in points]
        same = [level for level, each in zip(at, labels, strict=True) if each == label]
        other = [level for level, each in zip(at, labels, strict=True) if each != label]
        chosen.append(choose_threshold(own.profile, same, other, scores=off.scores, least_area=4.0 / 144))
    distance = nearest_neighbor([own.levels for own in maps], chosen, labels)
    assert np.array_equal(answer.mask, distance <= 1.0)
    assert answer.score == stability(distance)
    assert len(state.steps) == 0
    assert np.array_equal(answer.mask, segmenter.segment(state, tuple(reversed(CLICKS))).mask)


def test_a_reduced_photograph_gets_a_mask_of_its_own_size() -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(refine=True, working_size=48))
    mask = mask_of(segmenter, CLICKS[:2])
    assert mask.shape == (80, 96)
    assert mask[40, 30]
