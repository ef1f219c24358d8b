"""Masks of a refinement by themselves: how sure they are, packed, and resized."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.threshold import Profile
from m2n2_backend.m2n2.postprocess import distance_of
from m2n2_backend.m2n2.refine.confidence import (
    Calibration,
    ambiguity_of,
    first_confidence,
    next_confidence,
    next_trust,
)
from m2n2_backend.m2n2.refine.steps import Refinement
from m2n2_backend.m2n2.segmentation import refined_segmentation
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.rasters import PackedMask


def test_the_edge_is_smooth_after_it_is_resized_to_full_size() -> None:
    factor, radius = 6, 20
    y, x = np.mgrid[:60, :64]
    small = (y - 30) ** 2 + (x - 32) ** 2 <= radius**2
    step = Refinement(PackedMask.of(small), PackedMask.of(small), (), (), score=1.0, trust=1.0)
    size = (60 * factor, 64 * factor)
    mask = refined_segmentation(size, step, Prompts((Click(32 * factor, 30 * factor),))).mask
    y, x = np.mgrid[: size[0], : size[1]]
    true = np.hypot(y + 0.5 - 30.5 * factor, x + 0.5 - 32.5 * factor) <= radius * factor
    stairs = np.repeat(np.repeat(small, factor, axis=0), factor, axis=1)
    assert np.count_nonzero(mask != true) < 0.5 * np.count_nonzero(stairs != true)


def test_parts_that_break_off_when_a_mask_is_resized_go_if_they_are_specks() -> None:
    rng = np.random.default_rng(3)
    small = cv2.GaussianBlur(rng.random((60, 64)).astype(np.float32), (0, 0), 1.5) > 0.5
    step = Refinement(PackedMask.of(small), PackedMask.of(small), (), (), score=1.0, trust=1.0)
    size, specks = (114, 122), 0.01
    y, x = (int(each[0]) for each in np.nonzero(small))
    prompts = Prompts((Click(round(x * 1.9), round(y * 1.9)),))
    for label, connectivity in ((1, 4), (0, 8)):
        mask = refined_segmentation(size, step, prompts, specks).mask
        assert mask.any()
        pieces = (mask == label).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces, connectivity=connectivity)
        clicked = labels[prompts.clicks[0].y, prompts.clicks[0].x]
        areas = stats[1:, cv2.CC_STAT_AREA]
        assert all(area >= specks * mask.size for part, area in enumerate(areas, 1) if part != clicked)


masks = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).random((9, 11)) < 0.5)


@settings(max_examples=40, deadline=None)
@given(masks, masks, masks, st.floats(0.0, 1.0), st.floats(0.0, 3.0))
def test_the_score_is_a_share_and_largest_where_nothing_is_left_to_find(
    rough: NDArray[np.bool_], settled: NDArray[np.bool_], seen: NDArray[np.bool_], before: float, missed: float
) -> None:
    trust = next_trust(rough, settled, seen, missed, Calibration())
    assert 0.0 <= trust <= next_trust(settled, settled, seen, missed, Calibration())
    assert trust <= next_trust(rough, settled, settled, missed, Calibration())
    assert next_trust(settled, settled, settled, 0.0, Calibration()) == 1.0
    assert 0.0 <= next_confidence(trust, before) <= next_confidence(1.0, before) <= next_confidence(1.0, 1.0) == 1.0
    first = first_confidence(rough, settled, missed, Calibration())
    assert 0.0 <= first <= first_confidence(settled, settled, 0.0, Calibration()) == 1.0
    assert first_confidence(settled, settled, None, Calibration()) < 1.0, "a box alone confirms less"


def test_an_empty_mask_is_surely_wrong() -> None:
    nothing, everything = np.zeros((3, 4), np.bool_), np.ones((3, 4), np.bool_)
    for rough in (nothing, everything):
        assert first_confidence(rough, nothing, 0.0, Calibration()) == 0.0
        for seen in (nothing, everything):
            assert next_confidence(next_trust(rough, nothing, seen, 0.0, Calibration()), 1.0) == 0.0


def test_after_a_doubtful_mask_a_click_that_changes_little_does_not_make_it_certain() -> None:
    assert next_confidence(1.0, 0.2) < 0.7
    assert next_confidence(1.0, 0.0) > 0.0, "a mask may be good after an empty one"


def test_a_threshold_is_ambiguous_if_another_segment_of_another_area_has_edges_as_good() -> None:
    area = np.linspace(0.0, 1.0, 65536, dtype=np.float32)
    edge = np.zeros(65536, np.float32)
    edge[6553], edge[7000], edge[20000], edge[40000] = 4.0, 3.9, 1.0, 9.0
    own = Profile(area, edge)
    assert ambiguity_of(own, 6553, 0.0) == pytest.approx(0.25), (
        "neighbors in area and more than the prior do not count"
    )
    assert ambiguity_of(own, 6553, 0.35) == 0.0, "nor do segments that are too small"
    assert ambiguity_of(own, 100, 0.0) == 1.0, "a threshold without an edge"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
def test_the_distance_is_at_most_one_exactly_in_the_mask_and_bits_survive_packing(
    seed: int, height: int, width: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    assert np.array_equal(distance_of(mask) <= 1.0, mask)
    assert np.array_equal(PackedMask.of(mask).unpacked(), mask)


def test_a_packed_mask_takes_the_bytes_of_its_box_alone() -> None:
    mask = np.zeros((4000, 6000), np.bool_)
    mask[1000:1100, 3000:3200] = True
    packed = PackedMask.of(mask)
    assert packed.packed.nbytes == 100 * 200 / 8
    assert np.array_equal(packed.unpacked(), mask)
    empty = PackedMask.of(np.zeros((30, 40), np.bool_)).unpacked()
    assert empty.shape == (30, 40)
    assert not empty.any()
