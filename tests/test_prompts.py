from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.prompts import Box, Click, Prompts, end_from_percent, pixel_from_percent

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
