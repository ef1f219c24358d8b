from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import cv2
import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.m2n2.cache import ENTRY_BYTES, ByteCache
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.semantic_distance import SemanticDistance
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Box, Click

CLICKS = [Click(22, 30), Click(50, 30, positive=False), Click(28, 36), Click(5, 5, positive=False), Click(67, 30)]


class CountingRelation:
    """Passes on to another relation and counts the maps."""

    def __init__(self, relation: SemanticDistance) -> None:
        self.relation = relation
        self.maps_made = 0

    def maps(self, starts: torch.Tensor) -> torch.Tensor:
        self.maps_made += len(starts)
        return self.relation.maps(starts)

    @property
    def nbytes(self) -> int:
        return self.relation.nbytes


@pytest.fixture(scope="module")
def prepared() -> tuple[Segmenter, ImageState]:
    segmenter = Segmenter(FakeBackbone(6, 6))
    return segmenter, segmenter.encode(scene())


def counted(state: ImageState) -> tuple[ImageState, CountingRelation]:
    relation = CountingRelation(state.relation)
    return dataclasses.replace(state, relation=relation), relation


def test_the_backbone_runs_once_per_photograph_whatever_the_clicks() -> None:
    backbone = FakeBackbone()
    segmenter = Segmenter(backbone)

    state = segmenter.encode(scene())
    for count in range(1, len(CLICKS) + 1):
        segmenter.segment(state, CLICKS[:count])
    segmenter.segment(state, [], Box(5, 5, 40, 50))

    assert backbone.calls == 1


def test_a_click_on_an_object_selects_it_and_not_its_twin() -> None:
    segmenter = Segmenter(FakeBackbone(20, 20))
    rgb = scene()
    y, x = np.mgrid[:60, :90]
    disk = np.hypot((y - 30) / 60, (x - 22.5) / 60) < 0.22

    result = segmenter.segment(segmenter.encode(rgb), [Click(22, 30)])

    assert (result.mask & disk).sum() / (result.mask | disk).sum() > 0.9
    assert not result.mask[30, 67]
    assert result.thresholds[0] > 0
    assert 0.0 <= result.score <= 1.0
    assert result.distance.shape == (60, 90)


def test_each_further_click_makes_exactly_one_new_map() -> None:
    segmenter = Segmenter(FakeBackbone())
    state, relation = counted(segmenter.encode(scene()))

    for count in range(1, len(CLICKS) + 1):
        segmenter.segment(state, CLICKS[:count])
        assert relation.maps_made == count
    segmenter.segment(state, CLICKS)

    assert relation.maps_made == len(CLICKS)


def test_a_click_in_the_cell_of_an_earlier_one_makes_no_new_map() -> None:
    segmenter = Segmenter(FakeBackbone(6, 6))
    state, relation = counted(segmenter.encode(scene()))

    segmenter.segment(state, [Click(20, 32)])
    segmenter.segment(state, [Click(20, 32), Click(23, 35)])

    assert relation.maps_made == 1


def test_new_clicks_of_one_request_walk_together_and_give_the_maps_they_give_alone() -> None:
    alone, together = Segmenter(FakeBackbone()), Segmenter(FakeBackbone(), Hyperparameters(batch=3))
    expected = alone.encode(scene())
    state = together.encode(scene())

    result = together.segment(state, CLICKS)

    for click in CLICKS:
        own, single = together.prompt_map(state, click), alone.prompt_map(expected, click)
        np.testing.assert_allclose(
            own.levels * own.step, single.levels * single.step, atol=1e-3 * single.levels.max() * single.step
        )
    assert (result.mask == alone.segment(expected, CLICKS).mask).mean() > 0.99


def test_the_order_of_the_clicks_does_not_matter() -> None:
    segmenter = Segmenter(FakeBackbone())
    state = segmenter.encode(scene())
    expected = segmenter.segment(state, CLICKS)

    for order in list(permutations(range(len(CLICKS))))[::17]:
        result = segmenter.segment(state, [CLICKS[index] for index in order])
        assert (result.mask == expected.mask).all()
        assert result.thresholds == tuple(expected.thresholds[index] for index in order)


def test_two_photographs_used_from_many_threads_give_the_masks_they_give_alone() -> None:
    segmenter = Segmenter(FakeBackbone())
    photographs = [scene(), np.ascontiguousarray(scene()[:, ::-1])]
    prompts = [CLICKS[:count] for count in range(1, len(CLICKS) + 1)]
    alone = [[segmenter.segment(segmenter.encode(rgb), clicks).mask for clicks in prompts] for rgb in photographs]
    states = [segmenter.encode(rgb) for rgb in photographs]
    jobs = [(image, number) for number in range(len(prompts)) for image in (0, 1)] * 6

    with ThreadPoolExecutor(8) as pool:
        masks = list(pool.map(lambda job: segmenter.segment(states[job[0]], prompts[job[1]]).mask, jobs))

    for (image, number), mask in zip(jobs, masks, strict=True):
        assert (mask == alone[image][number]).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 89), st.integers(0, 59), st.booleans()), min_size=1, max_size=4))
def test_a_click_has_its_own_label_in_the_mask(
    prepared: tuple[Segmenter, ImageState], points: list[tuple[int, int, bool]]
) -> None:
    segmenter, state = prepared
    first = Click(22, 30)
    clicks = [first, *(Click(*point) for point in {point[:2]: point for point in points}.values())]
    levels = [segmenter.prompt_map(state, click).levels for click in clicks]

    mask = segmenter.segment(state, clicks).mask

    for own in clicks:
        others = [at for at, click in zip(levels, clicks, strict=True) if click.positive != own.positive]
        if all(at[own.y, own.x] > 0 for at in others):
            assert mask[own.y, own.x] == own.positive


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (2, 3), (1, 500), (500, 1), (7, 90)])
def test_tiny_photographs_take_clicks_in_every_corner(width: int, height: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    segmenter = Segmenter(FakeBackbone())
    state = segmenter.encode(rgb)

    for x, y in {(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)}:
        mask = segmenter.segment(state, [Click(x, y)]).mask
        assert mask.shape == (height, width)
        assert mask.dtype == bool
        assert mask[y, x]
    assert segmenter.segment(state, [], Box(0, 0, width, height)).mask.shape == (height, width)


@pytest.mark.parametrize("click", [Click(90, 0), Click(0, 60), Click(-1, 0), Click(0, -1)])
def test_a_click_outside_is_refused(click: Click) -> None:
    segmenter = Segmenter(FakeBackbone())

    with pytest.raises(InvalidPrompt, match="outside the 90x60 image"):
        segmenter.segment(segmenter.encode(scene()), [click])


def test_without_a_foreground_prompt_there_is_no_mask() -> None:
    segmenter = Segmenter(FakeBackbone())
    state = segmenter.encode(scene())

    for clicks in ([], [Click(3, 3, positive=False)]):
        with pytest.raises(InvalidPrompt, match="no foreground prompt"):
            segmenter.segment(state, clicks)


def test_a_photograph_beyond_the_working_size_gives_a_smooth_mask_of_its_own_size() -> None:
    rgb = cv2.resize(scene(), (900, 600), interpolation=cv2.INTER_CUBIC)
    segmenter = Segmenter(FakeBackbone(20, 20), Hyperparameters(working_size=90))
    state = segmenter.encode(rgb)

    result = segmenter.segment(state, [Click(225, 300)])

    stairs = np.kron(result.distance <= 1.0, np.ones((10, 10), bool))
    assert state.working_size == (60, 90)
    assert result.mask.shape == (600, 900)
    assert (result.mask != stairs).mean() < 0.02
    assert _outline(result.mask) < 0.95 * _outline(stairs)


def _outline(mask: NDArray[np.bool_]) -> float:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(cv2.arcLength(contour, True) for contour in contours)


def test_the_working_size_leaves_smaller_photographs_alone() -> None:
    state = Segmenter(FakeBackbone(), Hyperparameters(working_size=90)).encode(scene())

    assert state.working_size == state.size == (60, 90)


def test_despeckling_removes_islands_and_keeps_the_one_that_was_clicked() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    click = Click(45, 30)
    exact, cleaned = (
        segmenter.segment(segmenter.encode(noise), [click], Box(20, 10, 70, 50)).mask
        for segmenter in (Segmenter(FakeBackbone()), Segmenter(FakeBackbone(), Hyperparameters(despeckle=0.01)))
    )

    assert _islands(cleaned) < _islands(exact)
    assert cleaned[click.y, click.x]


def _islands(mask: NDArray[np.bool_]) -> int:
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0]) - 1


@pytest.mark.parametrize("room", [0, 10**9])
def test_a_request_with_many_clicks_computes_no_map_again_when_it_is_repeated(room: int) -> None:
    segmenter = Segmenter(FakeBackbone())
    state = dataclasses.replace(segmenter.encode(scene()), clicks=ByteCache(room), cells=ByteCache(room))
    state, relation = counted(state)
    clicks = [Click(5 + 4 * (i % 20), 5 + 12 * (i // 20), positive=i % 3 > 0) for i in range(60)]

    first = segmenter.segment(state, clicks)
    made = relation.maps_made
    again = segmenter.segment(state, clicks)

    assert relation.maps_made == made <= 60
    assert (again.mask == first.mask).all()
    segmenter.segment(state, [Click(70, 50)])
    assert len(state.clicks) == (61 if room else 1)


def test_a_state_states_the_bytes_of_its_parts_and_grows_with_new_clicks() -> None:
    segmenter = Segmenter(FakeBackbone())
    state = segmenter.encode(scene())

    assert state.nbytes == state.relation.nbytes + state.upsample.nbytes
    before = state.nbytes
    segmenter.segment(state, [Click(22, 30)])
    grown = 60 * 90 * 2 + 2 * 65536 * 4 + 12 * 12 * 4 + 2 * (32 + ENTRY_BYTES)  # two maps with their keys
    assert state.nbytes == before + grown
    segmenter.segment(state, [Click(22, 30)])
    assert state.nbytes == before + grown
