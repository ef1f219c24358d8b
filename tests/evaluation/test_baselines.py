"""The methods that can be evaluated, behind their common protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fake_backbone import FakeBackbone, scene
from numpy.typing import NDArray

from m2n2_backend.errors import SettingsError
from m2n2_backend.evaluation.baselines import Geodesic, GrabCut, RandomWalker
from m2n2_backend.evaluation.methods import (
    CLASSICS,
    FRAMEWORK,
    METHODS,
    InteractiveMethod,
    MethodChoice,
    SegmenterMethod,
    start_method,
)
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.threshold import Scores
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click

DISK = Click(22, 30)
RECTANGLE = Click(67, 30)
GROUND = Click(45, 5, positive=False)
CLASSES: Sequence[type[GrabCut | RandomWalker | Geodesic]] = (GrabCut, RandomWalker, Geodesic)

pytestmark = pytest.mark.usefixtures("single_thread")


def flat_scene() -> NDArray[np.uint8]:
    """A light square on dark ground."""
    rgb = np.full((60, 90, 3), 40, np.uint8)
    rgb[20:40, 30:60] = (200, 180, 60)
    return rgb


@pytest.mark.parametrize("name", METHODS)
def test_every_method_turns_clicks_into_a_mask_of_the_photographs_size(name: str) -> None:
    session = start_method(MethodChoice.of(name), FakeBackbone).start(scene())
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
    session = start_method(MethodChoice.of(name), FakeBackbone).start(scene())
    first = session.mask(clicks)
    session.mask([RECTANGLE])
    assert (session.mask(clicks) == first).all()
    again = start_method(MethodChoice.of(name), FakeBackbone).start(scene())
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
        start_method(MethodChoice.of(name), None)
    for name in FRAMEWORK:
        with pytest.raises(SettingsError, match="needs a backbone"):
            start_method(MethodChoice.of(name), None)


def hyperparameters(name: str = "m2n2", *values: str) -> Hyperparameters:
    method = MethodChoice.of(name, values).hyperparameters
    assert method is not None
    return method


def test_the_default_is_the_papers_exact_method_at_the_photographs_own_size() -> None:
    method = hyperparameters()
    assert method == Hyperparameters(working_size=method.working_size, despeckle=0.0, half=False)
    assert method.working_size > 10_000


def test_m2n2_and_what_refines_it_flood_and_the_baselines_do_not() -> None:
    assert {name: hyperparameters(name).flood_fill for name in FRAMEWORK} == {
        "m2n2": True,
        "refined": True,
        "m2n2-no-flood": False,
        "attention-nn": False,
        "kl-nn": False,
    }


def test_each_hyperparameter_can_be_set_by_name_and_has_its_type() -> None:
    method = hyperparameters(
        "m2n2", "temperature=0.5", "tau=0.2", "max_sweeps=7", "doublings=none", "half=true", "flood_fill=off",
        "scores.edge=false", "scores.neg=no", "fixed_threshold=0.5", "samples=0", "working_size=512", "tau=0.25",
    )  # fmt: skip
    assert method == Hyperparameters(
        temperature=0.5,
        tau=0.25,
        max_sweeps=7,
        half=True,
        flood_fill=False,
        scores=Scores(edge=False, neg=False),
        fixed_threshold=0.5,
        samples=0,
        working_size=512,
    )
    assert hyperparameters("kl-nn", "flood_fill=true").flood_fill
    assert hyperparameters("kl-nn").relation == "kl"
    assert hyperparameters("attention-nn").relation == "attention"


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sam", [], "unknown method sam"),
        ("m2n2", ["scores.edges=no"], r"scores\.edges=no: expected NAME=VALUE .*tau.*scores\.edge, "),
        ("m2n2", ["threshold=0.2"], "threshold=0.2: expected NAME=VALUE"),
        ("m2n2", ["tau"], "tau: expected NAME=VALUE"),
        ("m2n2", ["tau=often"], "tau=often: .*number"),
        ("m2n2", ["tau=none"], "tau=none: "),
        ("m2n2", ["radius=1.5"], "radius=1.5: .*integer"),
        ("m2n2", ["relation=kl"], "choose among m2n2"),
        ("geodesic", ["radius=2"], "does not have the hyperparameters"),
        ("kl-nn", ["temperature=0.5"], "its own temperature"),
        ("m2n2-no-flood", ["flood_fill=true"], "is m2n2"),
    ],
)
def test_names_and_values_without_meaning_are_refused(name: str, values: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        MethodChoice.of(name, values)


def test_with_a_fixed_threshold_every_lambda_is_that_share_of_its_maps_maximum() -> None:
    segmenter = Segmenter(FakeBackbone(), hyperparameters("m2n2", "fixed_threshold=0.5"))
    state = segmenter.encode(scene())
    thresholds = segmenter.segment(state, [DISK, GROUND]).thresholds
    for click, threshold in zip([DISK, GROUND], thresholds, strict=True):
        own = segmenter.prompt_map(state, click)
        assert threshold == pytest.approx(own.levels.max() * own.step / 2, rel=1e-3)


def test_the_framework_asks_its_segmenter_and_adds_nothing() -> None:
    method = start_method(MethodChoice.of("m2n2"), FakeBackbone)
    assert isinstance(method, SegmenterMethod)
    assert type(method.segmenter) is Segmenter
    plain = Segmenter(FakeBackbone())
    mask = plain.segment(plain.encode(scene()), [DISK, GROUND]).mask
    assert (method.start(scene()).mask([DISK, GROUND]) == mask).all()
