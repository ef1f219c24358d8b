"""How much one click may change, and what is taken of the answer to all clicks."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from shared_data import SHARED, needs_vit_tiny, vit_tiny

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.places import Stroke
from m2n2_backend.m2n2.refine.limits import FREE, KAPPA, SECOND_REMOVED, connected_with, limits_of
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click

DAVIS = SHARED / "data" / "davis345_every5"
needs_davis = pytest.mark.skipif(
    not DAVIS.is_dir(), reason="needs the DAVIS frames in ../shared/data/davis345_every5"
)

circles = st.floats(1.0, 1e6)
areas = st.integers(0, 10**6)
confidences = st.floats(0.0, 1.0)


@given(circles, areas, st.booleans(), st.integers(1, 30), confidences)
def test_no_click_changes_more_than_kappa_circles_and_each_fallback_changes_less(
    circle: float, area: int, positive: bool, earlier: int, confidence: float
) -> None:
    limits = limits_of(circle, area, positive=positive, earlier=earlier, confidence=confidence)
    assert limits.edit <= limits.part <= KAPPA * circle
    assert limits.whole <= limits.part


@given(circles, areas, st.integers(3, 30), st.booleans(), confidences, confidences)
def test_the_more_a_mask_of_several_clicks_is_trusted_the_less_of_it_may_change(
    circle: float, area: int, earlier: int, positive: bool, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    doubted = limits_of(circle, area, positive=positive, earlier=earlier, confidence=low)
    trusted = limits_of(circle, area, positive=positive, earlier=earlier, confidence=high)
    assert trusted.part <= doubted.part
    assert limits_of(circle, area, positive=positive, earlier=earlier, confidence=1.0).part <= FREE * area + 1e-6


@given(circles, areas, confidences)
def test_a_second_click_never_removes_nearly_all_of_a_mask(circle: float, area: int, confidence: float) -> None:
    assert (
        limits_of(circle, area, positive=False, earlier=1, confidence=confidence).part <= SECOND_REMOVED * area + 1e-6
    )


def test_the_part_of_a_change_that_is_connected_with_a_click_or_scribble_is_found() -> None:
    change = picture("##.#. ##... ..#.# #...#")
    assert np.array_equal(connected_with(change, (1, 1)), picture("##... ##... ..... ....."))
    stroke = Stroke.of(picture("..... ..... ....# #...#"))
    assert np.array_equal(connected_with(change, stroke), picture("..... ..... ....# #...#"))
    assert not connected_with(change, (1, 3)).any(), "the click is not in the change"


def picture(rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows.split()])


REFINED = Hyperparameters(refine=True, least_cells=4.0, despeckle=1e-4)
BEAR = (
    Click(502, 290),
    Click(414, 390, positive=False),
    Click(508, 136),
    Click(456, 200, positive=False),
    Click(442, 324, positive=False),
)


@needs_davis
@needs_vit_tiny
def test_a_background_click_on_a_small_error_does_not_take_a_good_mask_away() -> None:
    assert largest_loss(vit_tiny(), "160", BEAR) < 0.2


@needs_davis
def test_specks_that_color_leaves_do_not_survive_but_clicked_pixels_do() -> None:
    rgb, _ = frame("000")
    segmenter = Segmenter(ColorAffinity(), REFINED)
    state = segmenter.encode(rgb)
    for clicks in ((Click(430, 250),), (Click(430, 250), Click(20, 20), Click(432, 252, positive=False))):
        mask = segmenter.segment(state, clicks).mask
        for label in (True, False):
            for part in small_parts(mask == label, 1e-4 * mask.size, 4 if label else 8):
                assert any(part[click.y, click.x] for click in clicks)


def frame(stem: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    rgb = np.array(Image.open(next((DAVIS / "images").glob(f"{stem}.*"))).convert("RGB"))
    return rgb, np.array(Image.open(DAVIS / "masks" / f"{stem}.png")) == 255


def small_parts(mask: NDArray[np.bool_], least: float, connectivity: int) -> list[NDArray[np.bool_]]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    return [labels == part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] < least]


def largest_loss(backbone: Backbone, stem: str, clicks: tuple[Click, ...]) -> float:
    """Of IoU with the true object, from one click to the next."""
    rgb, true = frame(stem)
    segmenter = Segmenter(backbone, REFINED)
    state = segmenter.encode(rgb)
    masks = [segmenter.segment(state, clicks[:count]).mask for count in range(1, len(clicks) + 1)]
    ious = [np.count_nonzero(mask & true) / np.count_nonzero(mask | true) for mask in masks]
    return max(before - after for before, after in pairwise(ious))
