"""The simulated user, against cases worked out by hand and against the definition."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from m2n2_backend.evaluation.clicker import IGNORED, OBJECT, Clicker
from m2n2_backend.prompts import Click


def square(size: int, top: int, left: int, side: int) -> NDArray[np.uint8]:
    label = np.zeros((size, size), np.uint8)
    label[top : top + side, left : left + side] = OBJECT
    return label


def nothing(label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.zeros(label.shape, np.bool_)


def test_an_object_in_the_corner_is_clicked_in_its_middle_as_the_outside_counts_as_background() -> None:
    label = square(20, 0, 0, 9)
    assert Clicker(label).next_click(nothing(label)) == Click(4, 4, True)


def test_of_four_central_pixels_the_first_in_row_major_order_is_clicked() -> None:
    label = square(20, 5, 5, 10)
    assert Clicker(label).next_click(nothing(label)) == Click(9, 9, True)


def test_equally_thick_errors_of_both_kinds_get_a_negative_click() -> None:
    label = square(20, 2, 2, 5)
    mask = square(20, 12, 12, 5) == OBJECT
    assert Clicker(label).next_click(mask) == Click(14, 14, False)


def test_the_thicker_error_is_clicked_not_the_larger() -> None:
    label = square(30, 2, 2, 7)
    label[20:23, :] = OBJECT  # 90 pixels, but only 3 thick; the square has 49
    assert Clicker(label).next_click(nothing(label)) == Click(5, 5, True)


def test_a_perfect_mask_gets_a_negative_click_at_the_first_pixel() -> None:
    label = square(20, 5, 5, 10)
    assert Clicker(label).next_click(label == OBJECT) == Click(0, 0, False)


def test_an_ignored_hole_pushes_the_click_out_of_the_middle() -> None:
    label = square(20, 5, 5, 10)
    label[9:11, 9:11] = IGNORED
    # Of the square's 10x10 pixels those in the ring's corners are farthest from hole and outside: (7, 7) has the hole
    # at (9, 9), sqrt(8) away, and the outside 3 away; (6, 6) has 2.
    assert Clicker(label).next_click(nothing(label)) == Click(7, 7, True)


def test_superfluous_pixels_under_the_ignore_label_are_no_error() -> None:
    label = square(20, 2, 2, 3)
    label[8:, 8:] = IGNORED
    mask = label != 0
    mask[0, 19] = True
    assert Clicker(label).next_click(mask) == Click(19, 0, False)


def test_a_pixel_that_was_clicked_is_never_clicked_again() -> None:
    label = square(20, 0, 0, 9)
    clicker = Clicker(label)
    assert clicker.next_click(nothing(label)) == Click(4, 4, True)
    assert clicker.next_click(nothing(label)) == Click(3, 3, True)


def test_twenty_clicks_at_a_perfect_mask_are_twenty_pixels() -> None:
    label = square(9, 2, 2, 3)
    clicker = Clicker(label)
    clicks = {clicker.next_click(label == OBJECT) for _ in range(20)}
    assert len({(click.x, click.y) for click in clicks}) == 20


labels = arrays(np.uint8, (7, 9), elements=st.sampled_from([0, OBJECT, IGNORED]))
masks = arrays(np.bool_, (7, 9))


@settings(max_examples=60, deadline=None)
@given(labels, st.lists(masks, min_size=1, max_size=4))
def test_clicks_follow_the_definition(label: NDArray[np.uint8], answers: list[NDArray[np.bool_]]) -> None:
    clicker = Clicker(label)
    clicked: set[tuple[int, int]] = set()
    for mask in answers:
        expected = brute_force(label, mask, clicked)
        assert clicker.next_click(mask) == expected
        clicked.add((expected.y, expected.x))


def brute_force(label: NDArray[np.uint8], mask: NDArray[np.bool_], clicked: set[tuple[int, int]]) -> Click:
    """Every distance by looking at every pixel, the outside included."""
    best = {}
    for positive, region in ((True, (label == OBJECT) & ~mask), (False, (label == 0) & mask)):
        depths = {}
        for row, col in np.ndindex(*label.shape):
            if (row, col) in clicked:
                continue
            depths[row, col] = min(
                (row - other_row) ** 2 + (col - other_col) ** 2
                for other_row in range(-1, label.shape[0] + 1)
                for other_col in range(-1, label.shape[1] + 1)
                if not (0 <= other_row < label.shape[0] and 0 <= other_col < label.shape[1])
                or not region[other_row, other_col]
            )
        largest = max(depths.values())
        best[positive] = (largest, next(pixel for pixel in depths if depths[pixel] == largest))
    positive = best[True][0] > best[False][0]
    row, col = best[positive][1]
    return Click(col, row, positive)


def test_ties_at_distances_that_are_no_whole_numbers_go_to_the_first_pixel() -> None:
    # Two pixels, (255, 512) and (262, 508), sqrt(50) from the nearest correct ones: OpenCV's roots may differ there.
    label = np.zeros((480, 854), np.uint8)
    for row, col in ((255, 512), (262, 508), (300, 201), (303, 700)):
        rows, cols = np.mgrid[:480, :854]
        label[(rows - row) ** 2 + (cols - col) ** 2 < 50] = OBJECT
    for threads in (1, 2, 3):
        before = cv2.getNumThreads()
        cv2.setNumThreads(threads)
        click = Clicker(label).next_click(nothing(label))
        cv2.setNumThreads(before)
        assert click == Click(512, 255, True)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_images_of_one_row_or_column_can_be_clicked(shape: tuple[int, int]) -> None:
    label = np.full(shape, OBJECT, np.uint8)
    middle = Click((shape[1] - 1) // 2, (shape[0] - 1) // 2, True)
    click = Clicker(label).next_click(nothing(label))
    assert click.positive
    # All pixels of a strip one pixel wide are equally deep: the first is taken.
    assert click == (middle if shape == (1, 1) else Click(0, 0, True))
