from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from random_chains import random_attention

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.m2n2.box import MARGIN, MAX_ROUNDS, STEPS, box_distance
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.transition import Transition, transition_matrix
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Box, Click, Polygon

boxes = st.tuples(st.integers(0, 89), st.integers(0, 59), st.integers(1, 90), st.integers(1, 60)).map(
    lambda corner: Box(corner[0], corner[1], min(corner[0] + corner[2], 90), min(corner[1] + corner[3], 60))
)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(FakeBackbone(20, 20))


@pytest.fixture(scope="module")
def state(segmenter: Segmenter) -> ImageState:
    return segmenter.encode(scene())


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 25), st.integers(0, 999))
def test_the_rounds_equal_the_two_chains_written_out(cells: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    transition = transition_matrix(random_attention(cells, seed, spread=2.0))
    inside = generator.random(cells) < 0.7
    inside[0] = True
    inner = inside & (generator.random(cells) < 0.7)
    inner[0] = True
    positive, negative = [cells // 2], [cells - 1]

    distance = box_distance(transition, inside, inner, positive=positive, negative=negative)

    p = np.linalg.matrix_power(transition.matrix.double().numpy(), STEPS)
    members = set(np.flatnonzero(inner)) - set(negative) | set(positive)
    for _ in range(MAX_ROUNDS):
        rest = [cell for cell in range(cells) if cell not in members]
        ratio = np.log(p[sorted(members)].mean(axis=0) / (p[rest].mean(axis=0) if rest else 1e-30))
        following = {c for c in range(cells) if ratio[c] > MARGIN and inside[c] and c not in negative} | set(positive)
        if not following or following == members:
            break
        members = following
    np.testing.assert_allclose(distance, np.exp(np.clip(MARGIN - ratio, -20, 20)), rtol=1e-3)


def test_two_clusters_are_told_apart_by_a_box_around_one() -> None:
    matrix = torch.block_diag(torch.full((4, 4), 0.25), torch.full((4, 4), 0.25)) * 0.9 + 0.1 / 8
    inside = np.array([True] * 5 + [False] * 3)  # the box reaches one cell too far

    distance = box_distance(Transition((matrix,), (1,), sweeps=0, residual=0.0), inside, inside)

    assert (distance <= 1).tolist() == [True] * 4 + [False] * 4


def test_16_bit_powers_give_the_distances_of_32_bit_ones() -> None:
    attention = random_attention(200, spread=2.0)
    inside = np.arange(200) < 60
    single, half = (transition_matrix(attention.clone(), half=half) for half in (False, True))

    near = box_distance(half, inside, inside)

    np.testing.assert_allclose(near, box_distance(single, inside, inside), rtol=2e-2)


def test_a_box_around_an_object_selects_it(segmenter: Segmenter, state: ImageState) -> None:
    y, x = np.mgrid[:60, :90]
    disk = np.hypot((y - 30) / 60, (x - 22.5) / 60) < 0.22

    mask = segmenter.segment(state, [], Box(6, 13, 40, 48)).mask

    assert (mask & disk).sum() / (mask | disk).sum() > 0.85


@settings(max_examples=40, deadline=None)
@given(boxes)
def test_the_mask_never_leaves_the_box(segmenter: Segmenter, state: ImageState, box: Box) -> None:
    mask = segmenter.segment(state, [], box).mask

    mask[box.y0 : box.y1, box.x0 : box.x1] = False
    assert not mask.any()


def test_the_mask_never_leaves_the_box_beyond_the_working_size_either() -> None:
    segmenter = Segmenter(FakeBackbone(20, 20), Hyperparameters(working_size=64))
    state = segmenter.encode(cv2.resize(scene(), (540, 360), interpolation=cv2.INTER_CUBIC))

    for box in (Box(23, 77, 201, 311), Box(1, 1, 539, 359), Box(100, 100, 131, 133), Box(61, 95, 200, 260)):
        mask = segmenter.segment(state, [], box).mask
        mask[box.y0 : box.y1, box.x0 : box.x1] = False
        assert not mask.any()


def test_several_boxes_are_parts_of_one_object(segmenter: Segmenter, state: ImageState) -> None:
    disk, rectangle = Box(6, 13, 40, 48), Box(54, 16, 81, 45)

    mask = segmenter.segment(state, [], [disk, rectangle]).mask

    assert mask[30, 22]
    assert mask[30, 67]
    assert not mask[:, disk.x1 : rectangle.x0].any()


def test_clicks_correct_a_box(segmenter: Segmenter, state: ImageState) -> None:
    box = Box(4, 4, 86, 56)  # around both objects

    both = segmenter.segment(state, [], box).mask
    one = segmenter.segment(state, [Click(67, 30, positive=False)], box).mask

    assert both[30, 22]
    assert both[30, 67]
    assert one[30, 22]
    assert not one[30, 67]


def test_a_positive_click_in_a_box_is_object(segmenter: Segmenter, state: ImageState) -> None:
    box = Box(4, 4, 86, 56)
    bare = segmenter.segment(state, [], box).mask

    mask = segmenter.segment(state, [Click(46, 30)], box).mask

    assert not bare[30, 46]
    assert mask[30, 46]


@pytest.mark.parametrize("box", [Box(0, 0, 1, 1), Box(89, 59, 90, 60), Box(40, 20, 41, 60), Box(0, 0, 90, 60)])
def test_boxes_of_one_pixel_and_of_the_whole_photograph_are_answered(
    segmenter: Segmenter, state: ImageState, box: Box
) -> None:
    result = segmenter.segment(state, [], box)

    assert result.thresholds == ()
    assert result.mask.shape == (60, 90)


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("factor", [1, 8])
def test_no_box_and_no_polygon_is_answered_with_nothing(refine: bool, factor: int) -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(refine=refine, working_size=96))
    height, width = 80 * factor, 96 * factor
    rgb = cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8), (width, height))
    state, random = segmenter.encode(rgb), np.random.default_rng(1)
    for _ in range(30):
        x, y = int(random.integers(width - 2)), int(random.integers(height - 2))
        right, down = (
            x + 1 + int((width - x - 2) * random.random() ** 4),
            y + 1 + int((height - y - 2) * random.random()),
        )
        for shape in (Box(x, y, right, down), Polygon(((x, y), (right + 1, y), (x, down + 1)))):
            assert segmenter.segment(state, (), shape).mask.any(), shape


@pytest.mark.parametrize("relation", ["attention", "kl"])
def test_a_box_needs_the_markov_relation(relation: str) -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(relation=relation))

    with pytest.raises(InvalidPrompt, match="needs the Markov relation"):
        segmenter.segment(segmenter.encode(scene()), [], Box(6, 13, 40, 48))
