"""A prompt with something valid inside is never answered with nothing; no click takes an earlier one's place."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fake_backbone import FakeBackbone
from shared_data import grabcut_mask, grabcut_photograph, needs_grabcut

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.errors import SettingsError
from m2n2_backend.m2n2.hyperparameters import Hyperparameters, with_values
from m2n2_backend.m2n2.refine.steps import PinnedPixels, _fixed
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click, Scribble


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("factor", [1, 8])
def test_background_clicks_leave_something_of_every_box(refine: bool, factor: int) -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(refine=refine, working_size=96))
    height, width = 80 * factor, 96 * factor
    rgb = cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8), (width, height))
    state, random = segmenter.encode(rgb), np.random.default_rng(1)
    for _ in range(60):
        x, y = int(random.integers(width - 12)), int(random.integers(height - 12))
        box = Box(x, y, x + 2 + int(random.integers(10)), y + 1 + int(random.integers(10)))
        clicks = [Click(int(random.integers(x, box.x1)), int(random.integers(y, box.y1)), positive=False)] * 2
        stroke = Scribble.along([(x, y), (box.x1 - 2, y)], 1, positive=False)
        for prompts in (clicks, [stroke]):
            result = segmenter.segment(state, prompts, box)
            outside = result.mask.copy()
            outside[box.y0 : box.y1, box.x0 : box.x1] = False
            assert result.mask.any(), (box, prompts)
            assert not outside.any()
            if prompts is clicks and refine:
                assert not result.mask[clicks[0].y, clicks[0].x]


@pytest.mark.parametrize("refine", [False, True])
def test_a_box_all_of_which_is_background_is_answered_with_nothing_and_a_score_of_0(refine: bool) -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(refine=refine))
    state = segmenter.encode(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))

    result = segmenter.segment(state, [Click(9, 9, positive=False)], Box(9, 9, 10, 10))

    assert not result.mask.any()
    assert result.score == 0.0


def test_the_disc_of_a_later_click_spares_the_pixels_of_earlier_ones_in_what_the_next_click_goes_on_from() -> None:
    fixed = _fixed(
        (20, 20),
        [PinnedPixels((9, 9), 0.0, True), PinnedPixels((9, 12), 5.0, False), PinnedPixels((9, 13), 0.0, True)],
    )

    assert fixed[9, 9] == fixed[9, 13] == 1
    assert fixed[9, 12] == fixed[9, 10] == -1
    assert fixed[0, 0] == 0


@needs_grabcut
@pytest.mark.parametrize("stem", ["person5", "scissors", "teddy"])
def test_a_background_click_beside_a_foreground_click_leaves_more_than_a_few_pixels(stem: str) -> None:
    segmenter = Segmenter(ColorAffinity(), Hyperparameters(refine=True, least_cells=4.0, despeckle=1e-4))
    state, truth = segmenter.encode(grabcut_photograph(stem)), grabcut_mask(stem) == 255
    inside = cv2.distanceTransform(np.pad(truth.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = (int(place) for place in np.unravel_index(inside.argmax(), truth.shape))
    before = segmenter.segment(state, [Click(x, y)]).mask
    for apart in (1, 2, 3, 5):
        after = segmenter.segment(state, [Click(x, y), Click(x + apart, y, positive=False)]).mask
        assert after.sum() > before.sum() / 2, apart


@pytest.mark.parametrize(
    "value", ["tau=2", "tau=0", "tau=nan", "radius=-1", "doublings=40", "prior=2", "fixed_threshold=2", "kappa=inf"]
)
def test_a_value_without_meaning_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{value}: input should be"):
        with_values(Hyperparameters(), [value])
