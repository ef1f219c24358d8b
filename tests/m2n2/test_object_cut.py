from __future__ import annotations

import numpy as np
import pytest
from fake_backbone import FakeBackbone, disks
from numpy.typing import NDArray

from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.places import Placed, Stroke
from m2n2_backend.m2n2.refine.object_cut import FAR, CoarseGraph, cut_object
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click, Prompts

SHAPE = (240, 320)
CENTER = (120, 160)


def scene() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red disc on green, both noisy, and its true mask."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    true = (y - 120) ** 2 + (x - 160) ** 2 <= 60**2
    noise = np.random.default_rng(0).normal(0, 12, (*SHAPE, 3))
    rgb = np.where(true[..., None], (180, 60, 60), (60, 160, 70)) + noise
    return rgb.clip(0, 255).astype(np.uint8), true


def disc_distance(radius: float, slope: float = 0.01) -> NDArray[np.float32]:
    """Distance ≤ 1 in the disc of this radius, rising by ``slope`` a pixel."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.maximum(0.0, 1.0 + slope * (np.hypot(y - 120, x - 160) - radius)).astype(np.float32)


@pytest.mark.parametrize("radius", [45.0, 75.0])
def test_an_object_that_the_attention_saw_too_small_or_too_large_gets_the_edge_of_its_colors(radius: float) -> None:
    rgb, true = scene()
    distance = disc_distance(radius)
    assert np.count_nonzero((distance <= 1.0) != true) > 4000
    assert np.count_nonzero(cut_object(CoarseGraph.of(rgb), distance, [Placed(CENTER, True)]) != true) < 600


def test_colors_do_not_overrule_an_attention_that_is_certain() -> None:
    rgb, _ = scene()
    distance = np.where(disc_distance(45.0) <= 1.0, 1.0 / FAR, FAR).astype(np.float32)
    changed = cut_object(CoarseGraph.of(rgb), distance, [Placed(CENTER, True)]) != (distance <= 1.0)
    at_the_edge = np.abs(disc_distance(45.0, slope=1.0) - 1.0) <= 4.0
    assert not changed[~at_the_edge].any()


def test_a_distance_far_from_one_speaks_no_louder_than_color_can_answer() -> None:
    rgb, _ = scene()
    outside = disc_distance(45.0) > 1.0
    far, furthest = (np.where(outside, value, 0.9).astype(np.float32) for value in (FAR, 1e6))
    assert np.array_equal(
        cut_object(CoarseGraph.of(rgb), far, [Placed(CENTER, True)]),
        cut_object(CoarseGraph.of(rgb), furthest, [Placed(CENTER, True)]),
    )


def test_where_the_cut_agrees_the_edge_of_the_attention_stays_to_the_pixel() -> None:
    mask = np.zeros((480, 640), np.bool_)  # four pixels to one of the small copy
    mask[:, :321] = True
    rgb = np.where(mask[..., None], np.uint8(200), np.uint8(40)).repeat(3, axis=2)
    distance = np.where(mask, 0.4, 2.5).astype(np.float32)
    assert np.array_equal(cut_object(CoarseGraph.of(rgb), distance, [Placed((240, 100), True)]), mask)


def test_clicks_and_scribbles_keep_their_pixels_against_attention_and_color_and_the_last_one_wins() -> None:
    rgb, _ = scene()
    drawn = np.zeros(SHAPE, np.bool_)
    drawn[20:28, 20:120] = True
    outside, inside = Stroke.of(drawn), (118, 140)
    clicks = [Placed(CENTER, True), Placed(inside, False), Placed(outside, True)]
    mask = cut_object(CoarseGraph.of(rgb), disc_distance(60.0), clicks)
    assert mask[CENTER]
    assert not mask[inside]
    assert mask[drawn].mean() > 0.9
    assert cut_object(CoarseGraph.of(rgb), disc_distance(60.0), [Placed(inside, False), Placed(inside, True)])[inside]


@pytest.mark.parametrize("length", [481, 1000])
def test_the_small_pixel_that_a_click_fixes_is_the_one_that_holds_the_clicks_center(length: int) -> None:
    rgb = np.random.default_rng(0).integers(100, 140, (length, length, 3), np.uint8)
    copy, far = CoarseGraph.of(rgb), np.full((length, length), FAR, np.float32)
    far[: length // 4] = 1.0 / FAR
    small = copy.rgb.shape[0]
    for at in range(length // 2 + 1, length // 2 + 20):
        inside = cut_object(copy, far, [Placed((at, at), True)])
        middle = int((int((at + 0.5) * small / length) + 0.5) * length / small)
        assert inside[middle, middle], f"pixel {at} is in the small pixel about {middle}"


@pytest.mark.parametrize(
    ("shape", "distance"), [((1, 1), 0.5), ((1, 1), 2.0), ((2, 900), 0.5), ((30, 40), 0.0), ((30, 40), np.inf)]
)
def test_an_object_of_all_or_nothing_stays_as_it_is(shape: tuple[int, int], distance: float) -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (*shape, 3), np.uint8)
    mask = cut_object(CoarseGraph.of(rgb), np.full(shape, distance, np.float32), [Placed((0, 0), True)])
    assert np.array_equal(mask, np.full(shape, distance <= 1.0))


def test_a_photograph_of_one_color_leaves_an_object_that_the_attention_tells_apart() -> None:
    flat = np.full((*SHAPE, 3), 128, np.uint8)
    distance = disc_distance(60.0, slope=0.2)
    changed = cut_object(CoarseGraph.of(flat), distance, [Placed(CENTER, True)]) != (distance <= 1.0)
    assert changed.mean() < 0.01


def small_photograph() -> NDArray[np.uint8]:
    return disks((40, 40, 22, (200, 80, 60)))


def rough_of(method: Hyperparameters, prompts: Prompts) -> NDArray[np.bool_]:
    segmenter = Segmenter(FakeBackbone(), method)
    return segmenter.refined_step(segmenter.encode(small_photograph()), prompts).rough.unpacked()


def test_the_whole_object_is_cut_after_foreground_clicks_and_neither_after_background_clicks_nor_with_boxes() -> None:
    with_cut, without = (
        Hyperparameters(refine=True, least_cells=4.0),
        Hyperparameters(refine=True, least_cells=4.0, cut=False),
    )
    first = Click(40, 40)
    cut, kept = (rough_of(method, Prompts((first,))) for method in (with_cut, without))
    assert not np.array_equal(cut, kept)
    box = Prompts((first,), (Box(15, 15, 66, 66),))
    assert np.array_equal(rough_of(with_cut, box), rough_of(without, box))
    removing = Prompts((first, Click(60, 40, positive=False)))
    assert not (rough_of(with_cut, removing) & ~cut).any()


def test_what_is_kept_of_a_photograph_counts_its_small_copy_and_is_not_made_for_nothing() -> None:
    with_cut, without = (
        Segmenter(FakeBackbone(), Hyperparameters(refine=True, cut=cut)).encode(small_photograph())
        for cut in (True, False)
    )
    assert with_cut.copy is not None
    assert with_cut.nbytes - without.nbytes == with_cut.copy.nbytes > 80 * 96 * 64
    assert without.copy is None
    assert Segmenter(FakeBackbone(), Hyperparameters()).encode(small_photograph()).copy is None
