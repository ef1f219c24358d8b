"""The methods that can be evaluated, behind their common protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from fake_backbone import FakeBackbone, scene
from numpy.typing import NDArray
from small_data_set import one_thread

from m2n2_backend.errors import SettingsError
from m2n2_backend.evaluation.baselines import Geodesic, GrabCut, RandomWalker
from m2n2_backend.evaluation.methods import (
    CLASSICS,
    FRAMEWORK,
    METHODS,
    InteractiveMethod,
    MethodOptions,
    SegmenterMethod,
    make_segmenter,
    start_method,
)
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click

DISK = Click(22, 30)
RECTANGLE = Click(67, 30)
GROUND = Click(45, 5, positive=False)
CLASSES: Sequence[type[GrabCut | RandomWalker | Geodesic]] = (GrabCut, RandomWalker, Geodesic)


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


def flat_scene() -> NDArray[np.uint8]:
    """A light square on dark ground."""
    rgb = np.full((60, 90, 3), 40, np.uint8)
    rgb[20:40, 30:60] = (200, 180, 60)
    return rgb


@pytest.mark.parametrize("name", METHODS)
def test_every_method_turns_clicks_into_a_mask_of_the_photographs_size(name: str) -> None:
    session = start_method(MethodOptions(name), FakeBackbone).start(scene())
    mask = session.mask([DISK])
    assert mask.dtype == np.bool_
    assert mask.shape == (60, 90)
    assert mask[DISK.y, DISK.x]
    after = session.mask([DISK, GROUND])
    assert after[DISK.y, DISK.x]
    assert not after[GROUND.y, GROUND.x]
    assert session.grid == (12 if name in FRAMEWORK else None)


@pytest.mark.parametrize("name", METHODS)
def test_equal_clicks_give_equal_masks_whatever_was_asked_before(name: str) -> None:
    clicks = [DISK, GROUND, RECTANGLE]
    session = start_method(MethodOptions(name), FakeBackbone).start(scene())
    first = session.mask(clicks)
    session.mask([RECTANGLE])
    assert (session.mask(clicks) == first).all()
    again = start_method(MethodOptions(name), FakeBackbone).start(scene())
    assert (again.mask(clicks) == first).all()


@pytest.mark.parametrize("kind", CLASSES)
def test_the_classics_find_a_flat_square_with_a_click_in_and_one_beside_it(
    kind: type[GrabCut | RandomWalker | Geodesic],
) -> None:
    rgb = flat_scene()
    method: InteractiveMethod = kind()
    mask = method.start(rgb).mask([Click(45, 30), Click(10, 10, positive=False)])
    truth = rgb[..., 0] > 100
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


@pytest.mark.parametrize("kind", CLASSES)
def test_large_photographs_are_reduced_and_the_mask_is_enlarged_again(
    kind: type[GrabCut | RandomWalker | Geodesic],
) -> None:
    rgb = np.kron(flat_scene(), np.ones((12, 12, 1), np.uint8))  # 720 x 1080
    method: InteractiveMethod = kind()
    mask = method.start(rgb).mask([Click(540, 360), Click(120, 120, positive=False)])
    truth = rgb[..., 0] > 100
    assert mask.shape == truth.shape
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_only_the_framework_needs_a_backbone() -> None:
    for name in CLASSICS:
        start_method(MethodOptions(name), None)
    for name in FRAMEWORK:
        with pytest.raises(SettingsError, match="needs a backbone"):
            start_method(MethodOptions(name), None)


def test_the_default_is_the_papers_exact_method_at_the_photographs_own_size() -> None:
    method = MethodOptions().hyperparameters()
    assert method == Method(working_size=method.working_size, despeckle=0.0, half=False)
    assert method.working_size > 10_000


def test_only_m2n2_floods_by_default() -> None:
    assert {name: MethodOptions(name).hyperparameters().flood_fill for name in FRAMEWORK} == {
        "m2n2": True,
        "m2n2-no-flood": False,
        "attention-nn": False,
        "kl-nn": False,
    }


def test_switches_reach_the_method() -> None:
    options = MethodOptions(
        "m2n2-no-flood",
        drop_scores=("edge", "neg"),
        temperature=0.5,
        threshold=0.2,
        tolerance=1e-2,
        radius=3,
        samples=0,
        despeckle=0.01,
        working_size=512,
    )
    method = options.hyperparameters()
    assert (method.temperature, method.threshold, method.tolerance) == (0.5, 0.2, 1e-2)
    assert (method.radius, method.samples, method.despeckle, method.working_size) == (3, 0, 0.01, 512)
    scores = method.scores
    assert (scores.prior, scores.edge, scores.pos, scores.neg) == (True, False, True, False)
    assert not method.flood_fill
    assert MethodOptions("kl-nn", flood_fill=True).hyperparameters().flood_fill
    assert MethodOptions("kl-nn").hyperparameters().relation == "kl"
    assert MethodOptions("attention-nn").hyperparameters().relation == "attention"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (MethodOptions("sam"), "unknown method sam"),
        (MethodOptions(drop_scores=("edges",)), "unknown scores edges"),
        (MethodOptions("geodesic", radius=2), "none of the switches"),
        (MethodOptions("kl-nn", temperature=0.5), "fixed temperature"),
        (MethodOptions("m2n2-no-flood", flood_fill=True), "is m2n2"),
    ],
)
def test_names_and_switches_without_meaning_are_refused(options: MethodOptions, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        options.validate()


def test_without_any_score_every_threshold_is_half_of_its_maps_maximum() -> None:
    segmenter = make_segmenter(MethodOptions(drop_scores=("prior", "edge", "pos", "neg")), FakeBackbone())
    state = segmenter.encode(scene())
    thresholds = segmenter.segment(state, [DISK, GROUND]).thresholds
    for click, threshold in zip([DISK, GROUND], thresholds, strict=True):
        own = segmenter.prompt_map(state, click)
        assert threshold == pytest.approx(own.levels.max() * own.step / 2, rel=1e-3)


def test_the_framework_asks_its_segmenter_and_adds_nothing() -> None:
    method = start_method(MethodOptions(), FakeBackbone)
    assert isinstance(method, SegmenterMethod)
    assert type(method.segmenter) is Segmenter
    plain = Segmenter(FakeBackbone())
    mask = plain.segment(plain.encode(scene()), [DISK, GROUND]).mask
    assert (method.start(scene()).mask([DISK, GROUND]) == mask).all()
