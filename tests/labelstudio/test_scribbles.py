"""Scribbles and polygons from the value type to the mask."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from fake_backbone import FakeBackbone, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.m2n2.box import INNER, cells_within
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.flood_fill import flood_fill
from m2n2_backend.m2n2.places import Stroke, level_at
from m2n2_backend.m2n2.prompt_maps import place_of, start_at
from m2n2_backend.m2n2.refine.click_radius import area_about, click_radius, disc
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click, PointPrompt, Polygon, Prompts, Scribble

PAPER = Hyperparameters(least_cells=4.0, despeckle=1e-4)
REFINED = Hyperparameters(refine=True, least_cells=4.0, despeckle=1e-4)
METHODS = pytest.mark.parametrize("method", [PAPER, REFINED], ids=["paper", "refined"])
STATE = Segmenter(FakeBackbone(7, 11)).encode(scene())
ON_DISK = Scribble.along([(14, 26), (22, 30), (30, 34)], 3)
ON_GROUND = Scribble.along([(45, 5), (47, 55)], 3, positive=False)


@st.composite
def masks(draw: st.DrawFn, height: int = 60, width: int = 90) -> NDArray[np.bool_]:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0.001, 0.05, 0.5]))
    mask[rng.integers(height), rng.integers(width)] = True
    return mask


def segmented(method: Hyperparameters, *clicks: PointPrompt, box: Box | Polygon | None = None) -> NDArray[np.bool_]:
    segmenter = Segmenter(FakeBackbone(20, 20), method)
    return segmenter.segment(segmenter.encode(scene()), clicks, box).mask


@settings(max_examples=25, deadline=None)
@given(masks(), st.booleans())
def test_a_scribble_keeps_its_pixels_and_can_be_sent_to_another_process(
    mask: NDArray[np.bool_], positive: bool
) -> None:
    scribble = pickle.loads(pickle.dumps(Scribble.of(mask, positive)))
    assert scribble == Scribble.of(mask, positive)
    assert hash(scribble) == hash(Scribble.of(mask, positive))
    again = np.zeros_like(mask)
    again[scribble.pixels()] = True
    assert np.array_equal(again, mask)


def test_a_stroke_across_twelve_megapixels_is_sent_in_few_bytes() -> None:
    stroke = Scribble.along([(10, 10), (3900, 2900)], 40)
    assert len(pickle.dumps(stroke)) < 40_000
    Prompts((stroke,)).validate(4000, 3000)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (Prompts((Scribble.along([(5, 5), (95, 5)]),)), "scribble at .* is outside the 90x60"),
        (Prompts((Scribble.along([(5, 5), (9, 9)], positive=False),)), "no foreground prompt"),
        (Prompts((), (Polygon(((1, 1), (5, 5))),)), "three corners"),
        (Prompts((), (Polygon(((1, 1), (5, float("nan")), (3, 9))),)), "three corners"),
        (Prompts((), (Polygon(((1, 1), (5, 1), (9, 1))),)), "empty"),
        (Prompts((), (Polygon(((91, 1), (95, 1), (93, 9))),)), "outside the 90x60"),
    ],
)
def test_scribbles_and_polygons_that_cannot_be_used_are_refused(prompts: Prompts, message: str) -> None:
    with pytest.raises(InvalidPrompt, match=message):
        prompts.validate(90, 60)


def test_a_scribble_of_no_pixel_is_refused() -> None:
    with pytest.raises(InvalidPrompt, match="no pixel"):
        Scribble.of(np.zeros((4, 4), np.bool_))


@settings(max_examples=15, deadline=None)
@given(masks())
def test_the_chain_starts_from_the_mean_of_the_pixels_cells(mask: NDArray[np.bool_]) -> None:
    stroke = place_of(STATE, Scribble.of(mask))
    assert isinstance(stroke, Stroke)
    expected = np.zeros((7, 11))
    for row, col in zip(*np.nonzero(mask), strict=True):
        expected[int((row + 0.5) * 7 / 60), int((col + 0.5) * 11 / 90)] += 1 / mask.sum()
    start = np.zeros(7 * 11)
    for cell, weight in start_at(STATE, stroke):
        start[cell] = weight
    np.testing.assert_allclose(start, expected.ravel(), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 9))
def test_the_flood_from_a_stroke_is_the_nearest_of_those_from_its_pixels_had_all_of_them_its_median(
    seed: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    markov = rng.random((height, width)).astype(np.float32) * 50
    rows, cols = np.nonzero(rng.random((height, width)) < 0.3)
    if not rows.size:
        return
    flooded = flood_fill(markov, rows, cols)
    flat = markov.copy()
    flat[rows, cols] = np.median(markov[rows, cols])
    each = [flood_fill(flat, row, col) for row, col in zip(rows, cols, strict=True)]
    expected = np.minimum.reduce([one.levels * one.step for one in each])
    np.testing.assert_allclose(flooded.levels * flooded.step, expected, atol=2 * flooded.step + 1e-3)


@METHODS
def test_a_scribble_of_one_pixel_is_a_click(method: Hyperparameters) -> None:
    dot = np.zeros((60, 90), np.bool_)
    dot[30, 22] = True
    assert np.array_equal(segmented(method, Scribble.of(dot)), segmented(method, Click(22, 30)))


@METHODS
def test_a_scribble_selects_what_it_was_drawn_on_and_its_pixels_are_fixed(method: Hyperparameters) -> None:
    mask = segmented(method, ON_DISK, ON_GROUND)
    y, x = np.mgrid[:60, :90]
    disk = np.hypot((y - 30) / 60, (x - 22.5) / 60) < 0.22
    assert (mask & disk).sum() / (mask | disk).sum() > 0.85
    assert mask[ON_DISK.pixels()].all()
    assert not mask[ON_GROUND.pixels()].any()


def test_one_scribble_over_two_objects_takes_both() -> None:
    mask = segmented(REFINED, Scribble.along([(22, 30), (67, 30)], 3))
    assert mask[20, 22]
    assert mask[20, 67]


def test_scribbles_and_clicks_are_one_sequence_of_which_a_new_one_costs_one_step() -> None:
    segmenter = Segmenter(FakeBackbone(20, 20), REFINED)
    state = segmenter.encode(scene())
    prompts = (ON_DISK, Click(67, 30), ON_GROUND, Scribble.along([(60, 28), (72, 33)], 2))
    for count in range(1, len(prompts) + 1):
        mask = segmenter.segment(state, prompts[:count]).mask
        assert len(state.steps) == len(state.clicks) == count
    assert np.array_equal(mask, segmented(REFINED, *prompts))


def test_a_scribble_that_agrees_with_the_mask_leaves_it_as_it_is() -> None:
    before = segmented(REFINED, Click(22, 30))
    assert np.array_equal(segmented(REFINED, Click(22, 30), ON_GROUND), before)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_radius_of_a_scribble_is_its_pixels_largest_and_its_area_is_what_lies_within(
    seed: int, positive: bool
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 12)) < 0.3
    covered = rng.random((9, 12)) < 0.2
    covered[0, 0] = True
    stroke = Stroke.of(covered)
    points = list(zip(*np.nonzero(covered), strict=True))
    radius = max(click_radius(mask, (int(row), int(col)), positive) for row, col in points)
    assert click_radius(mask, stroke, positive) == pytest.approx(radius)
    wrong = [point for point in points if mask[point] != positive]
    near = {place for point in wrong for place in zip(*disc((9, 12), point, 2.0), strict=True)}
    assert area_about(mask, stroke, positive, 2.0) == len(near)


def test_the_level_at_a_scribble_is_the_median_so_that_crossing_an_older_one_does_not_count() -> None:
    levels = np.full((5, 9), 700, np.uint16)
    levels[2, :3] = 0
    stroke = np.zeros((5, 9), np.bool_)
    stroke[2] = True
    assert level_at(levels, Stroke.of(stroke)) == 700
    assert level_at(levels, (2, 1)) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 30), st.floats(-5, 25)), min_size=3, max_size=7))
def test_a_polygon_covers_the_pixels_whose_center_lies_inside(points: list[tuple[float, float]]) -> None:
    mask = Polygon(tuple(points)).mask((20, 25), (20, 25))
    expected, on_edge = np.zeros((2, 20, 25), np.bool_)
    for row, col in np.ndindex(20, 25):
        x, y, crossings = col + 0.5, row + 0.5, 0
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if (y0 <= y) != (y1 <= y):
                crossed = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                crossings += x >= crossed
                # Where an edge runs through a center to the last bit, either side is right.
                on_edge[row, col] |= abs(x - crossed) < 1e-9
        expected[row, col] = crossings % 2
    if expected[~on_edge].any():
        assert np.array_equal(mask[~on_edge], expected[~on_edge])
    elif not on_edge.any():
        assert mask.sum() == 1


def test_an_ellipse_has_its_area_and_turns_clockwise() -> None:
    mask = Polygon.ellipse(40, 30, 20, 10, 90).mask((60, 90), (60, 90))
    assert mask.sum() == pytest.approx(np.pi * 200, rel=0.02)
    assert mask[15, 40]
    assert not mask[30, 55]
    tilted = Polygon.ellipse(40, 30, 20, 4, 30).mask((60, 90), (60, 90))
    assert tilted[38, 54]  # y grows downward: clockwise is to the lower right
    assert not tilted[22, 54]


@pytest.mark.parametrize("box", [Box(6, 13, 40, 48), Box(30, 0, 90, 60), Box(50, 20, 53, 58)])
def test_a_polygon_with_a_boxs_corners_starts_from_about_the_same_cells(box: Box) -> None:
    corners = Polygon(((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)))
    grid, size = (20, 30), (60, 90)
    assert np.array_equal(cells_within(box, size, grid), cells_within(corners, size, grid))
    inner = cells_within(corners, size, grid, INNER)
    assert inner.any()
    assert not (inner & ~cells_within(box, size, grid)).any()


def test_the_inner_part_of_a_bent_shape_is_bent_too() -> None:
    bent = Polygon(((0, 0), (90, 0), (90, 60), (75, 60), (75, 15), (15, 15), (15, 60), (0, 60)))
    inner = cells_within(bent, (60, 90), (20, 30), INNER).reshape(20, 30)
    assert inner[10, 2]
    assert inner[10, 27]
    assert not inner[8:, 6:24].any()


@METHODS
@pytest.mark.parametrize("size", [1024, 48])
def test_nothing_outside_of_a_polygon_becomes_object(method: Hyperparameters, size: int) -> None:
    segmenter = Segmenter(FakeBackbone(20, 20), Hyperparameters(**{**vars(method), "working_size": size}))
    state = segmenter.encode(scene())
    for polygon in (Polygon(((3, 10), (45, 28), (8, 55))), Polygon.ellipse(60, 30, 25, 18, 20)):
        mask = segmenter.segment(state, (), polygon).mask
        assert mask.any()
        assert not (mask & ~polygon.mask((60, 90), (60, 90))).any()


@METHODS
def test_clicks_and_scribbles_correct_a_polygon(method: Hyperparameters) -> None:
    around = Polygon(((4, 4), (86, 4), (86, 56), (4, 56)))
    both = segmented(method, box=around)
    one = segmented(method, Scribble.along([(62, 30), (72, 32)], 3, positive=False), box=around)
    assert both[30, 22]
    assert both[30, 67]
    assert one[30, 22]
    assert not one[30, 67]
