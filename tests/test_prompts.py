from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.prompts import Box, Click, Polygon, Prompts, Scribble
from m2n2_backend.rasters import end_from_percent, pixel_from_percent

sizes = st.integers(1, 10_000)


def test_clicks_and_boxes_cannot_be_changed() -> None:
    for prompt, name in ((Click(1, 2), "x"), (Box(0, 0, 1, 1), "x0"), (Prompts(), "clicks")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(prompt, name, 5)


def test_a_click_is_positive_unless_told() -> None:
    assert Click(1, 2).positive


@pytest.mark.parametrize("click", [Click(0, 0), Click(9, 4), Click(9, 0), Click(0, 4)])
def test_clicks_in_the_corners_are_inside(click: Click) -> None:
    Prompts((click,)).validate(width=10, height=5)


@pytest.mark.parametrize("click", [Click(10, 0), Click(0, 5), Click(-1, 0), Click(0, -1)])
def test_clicks_beyond_the_last_row_and_column_are_refused(click: Click) -> None:
    with pytest.raises(InvalidPrompt, match=rf"click \({click.x}, {click.y}\) is outside the 10x5 image"):
        Prompts((click,)).validate(width=10, height=5)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box(3, 1, 3, 4), "empty"),
        (Box(4, 1, 3, 4), "empty"),
        (Box(1, 2, 3, 2), "empty"),
        (Box(-1, 0, 3, 3), "outside the 10x5 image"),
        (Box(0, -1, 3, 3), "outside the 10x5 image"),
        (Box(0, 0, 11, 3), "outside the 10x5 image"),
        (Box(0, 0, 3, 6), "outside the 10x5 image"),
    ],
)
def test_boxes_that_are_empty_or_reach_outside_are_refused(box: Box, message: str) -> None:
    with pytest.raises(InvalidPrompt, match=message):
        Prompts(boxes=(box,)).validate(width=10, height=5)


def test_a_box_may_cover_the_whole_image_and_a_single_pixel() -> None:
    Prompts(boxes=(Box(0, 0, 10, 5), Box(9, 4, 10, 5))).validate(width=10, height=5)


@pytest.mark.parametrize("prompts", [Prompts(), Prompts((Click(1, 1, positive=False),))])
def test_something_has_to_be_foreground(prompts: Prompts) -> None:
    with pytest.raises(InvalidPrompt, match="no foreground prompt"):
        prompts.validate(width=10, height=5)


def test_a_box_is_foreground_enough_for_negative_clicks() -> None:
    Prompts((Click(1, 1, positive=False),), (Box(0, 0, 5, 5),)).validate(width=10, height=5)


@given(sizes, st.integers(0, 9_999))
def test_the_center_of_a_pixel_in_percent_leads_back_to_it(size: int, pixel: int) -> None:
    pixel %= size

    assert pixel_from_percent(100.0 * (pixel + 0.5) / size, size) == pixel


@given(sizes, st.floats(0.0, 100.0))
def test_every_percentage_lies_in_the_image(size: int, percent: float) -> None:
    assert 0 <= pixel_from_percent(percent, size) < size
    assert pixel_from_percent(percent, size) < end_from_percent(percent, size) + 1 <= size + 1


@given(sizes)
def test_0_percent_is_the_first_pixel_and_100_percent_the_last(size: int) -> None:
    assert pixel_from_percent(0.0, size) == 0
    assert pixel_from_percent(100.0, size) == size - 1
    assert end_from_percent(0.0, size) == 1
    assert end_from_percent(100.0, size) == size


@given(sizes, st.integers(1, 10_000))
def test_the_far_edge_of_a_pixel_in_percent_ends_right_behind_it(size: int, end: int) -> None:
    end = 1 + (end - 1) % size

    assert end_from_percent(100.0 * end / size, size) == end


def test_a_pixel_that_is_covered_in_part_counts() -> None:
    assert end_from_percent(50.1, 10) == 6


@pytest.mark.parametrize("percent", [-0.001, 100.001, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("convert", [pixel_from_percent, end_from_percent])
def test_percentages_outside_of_the_image_are_refused(convert: object, percent: float) -> None:
    with pytest.raises(InvalidPrompt, match="outside the image"):
        convert(percent, 100)


@pytest.mark.parametrize("number", [7.0, 7.99, np.float32(7.5), np.int64(7), np.uint8(7), torch.tensor(7.3)])
def test_a_coordinate_of_any_type_is_the_pixel_it_lies_in(number: Any) -> None:
    click, box = Click(number, number), Box(number, 0, 9.5, number)

    assert click == Click(7, 7)
    assert box == Box(7, 0, 9, 7)
    assert {type(value) for value in (click.x, click.y, box.x0, box.x1)} == {int}
    assert hash(click) == hash(Click(7, 7))


def test_what_lies_before_the_image_is_not_rounded_into_it() -> None:
    with pytest.raises(InvalidPrompt, match=r"click \(-1, 2\) is outside"):
        Prompts((Click(-0.5, 2),)).validate(width=10, height=5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, "3", (1, 2), np.float32("nan")])
@pytest.mark.parametrize("name", ["x", "y", "x0", "y0", "x1", "y1"])
def test_a_coordinate_that_is_no_finite_number_is_refused(name: str, value: Any) -> None:
    shape: Any = {"x": 1, "y": 1} if name in "xy" else {"x0": 0, "y0": 0, "x1": 4, "y1": 4}
    shape[name] = value
    prompts = Prompts((Click(**shape),)) if name in "xy" else Prompts(boxes=(Box(**shape),))

    with pytest.raises(InvalidPrompt, match=f"{name} of a (Click|Box) must be a finite number, not"):
        prompts.validate(width=10, height=5)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (Prompts(((1, 2),)), "a prompt must be a Click or a Scribble, not tuple"),  # type: ignore[arg-type]
        (Prompts((Box(0, 0, 2, 2),)), "a prompt must be a Click or a Scribble, not Box"),  # type: ignore[arg-type]
        (Prompts(boxes=((0, 0, 4, 4),)), "a box must be a Box or a Polygon, not tuple"),  # type: ignore[arg-type]
        (Prompts((Click(1, 1, "bg"),)), "positive of a Click must be True or False"),  # type: ignore[arg-type]
        (Prompts(boxes=(Polygon(((1, 2, 3), (4, 5, 6))),)), "pairs of numbers"),  # type: ignore[arg-type]
        (Prompts(boxes=(Polygon(("ab", "cd", "ef")),)), "pairs of numbers"),  # type: ignore[arg-type]
    ],
)
def test_prompts_of_other_types_are_refused_in_a_sentence(prompts: Prompts, words: str) -> None:
    with pytest.raises(InvalidPrompt, match=words):
        prompts.validate(width=10, height=5)


def test_labels_of_numbers_are_truths() -> None:
    Prompts((Click(1, 1, np.bool_(True)), Click(2, 2, 0))).validate(width=10, height=5)  # type: ignore[arg-type]


def test_corners_may_stand_in_lists() -> None:
    polygon = Polygon([[1, 1], np.array([5, 1]), (3, 4)])  # type: ignore[arg-type]

    assert polygon == Polygon(((1, 1), (5, 1), (3, 4)))
    assert hash(polygon) == hash(Polygon(((1, 1), (5, 1), (3, 4))))


def test_a_scribble_takes_floats_and_masks_of_any_type() -> None:
    assert Scribble.along([(2.7, 3.2), (8.9, 3.9)], 1) == Scribble.along([(2, 3), (8, 3)], 1)
    mask = np.zeros((6, 7))
    mask[2, 1:4] = 255.0
    assert Scribble.of(mask) == Scribble.of(mask > 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("points", [[(float("nan"), 1)], [(1e12, 1)], ["ab"], [(1, 2), (3,)]])
def test_a_scribble_of_no_points_in_an_image_is_refused(points: Any) -> None:
    with pytest.raises(InvalidPrompt, match=r"of the scribble|points of a scribble"):
        Scribble.along(points)


def test_a_scribbles_mask_has_rows_and_columns() -> None:
    with pytest.raises(InvalidPrompt, match=r"not \[3, 4, 5\]"):
        Scribble.of(np.ones((3, 4, 5), bool))


@pytest.mark.parametrize("boxes", [0, 4])
def test_an_object_has_at_most_64_prompts(boxes: int) -> None:
    click, box = Click(5, 5), Box(0, 0, 9, 9)
    Prompts((click,) * (64 - boxes), (box,) * boxes).validate(10, 10)
    with pytest.raises(InvalidPrompt, match=r"^65 prompts for one object, and at most 64 are allowed: "):
        Prompts((click,) * (65 - boxes), (box,) * boxes).validate(10, 10)
