"""Small objects in large photographs: which window of the photograph answers, and that it stays the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.commands.segment import segment_file
from m2n2_backend.evaluation.report.explain import explain
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.attention import AttentionFeatures
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.m2n2.views.view import Bounds, View, finest_level, view_about, view_of_box
from m2n2_backend.prompts import Box, Click, Polygon, Scribble
from m2n2_backend.settings import load_settings

REFINED = Hyperparameters(refine=True, least_cells=4.0, despeckle=1e-4, views=1024)
SIZE = (1200, 1800)
OBJECTS = ((300, 500), (900, 1500), (850, 300))  # (row, col) of disks with a radius of 60


class Counting(ColorAffinity):
    """Counts the photographs and views that it encodes."""

    def __init__(self) -> None:
        super().__init__(grid=24)
        self.sizes: list[tuple[int, int]] = []

    def features(self, rgb: NDArray[np.uint8]) -> AttentionFeatures:
        self.sizes.append((rgb.shape[0], rgb.shape[1]))
        return super().features(rgb)


def disk(row: int, col: int, radius: int = 60) -> NDArray[np.bool_]:
    rows, cols = np.ogrid[: SIZE[0], : SIZE[1]]
    return np.asarray((rows - row) ** 2 + (cols - col) ** 2 <= radius**2)


def photograph() -> NDArray[np.uint8]:
    """Small disks of one color on a ground of many shades."""
    shades = np.random.default_rng(0).integers(60, 110, (SIZE[0] // 40, SIZE[1] // 40, 1), np.uint8)
    rgb = np.kron(shades, np.ones((40, 40, 3), np.uint8)) + np.random.default_rng(1).integers(
        0, 12, (*SIZE, 3), np.uint8
    )
    for row, col in OBJECTS:
        rgb[disk(row, col)] = (220, 90, 40)
    return rgb


def view_of(found: Segmentation) -> View:
    assert found.choice is not None
    return found.choice.view


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Counting(), REFINED)


@pytest.fixture(scope="module")
def state(segmenter: Segmenter) -> ImageState:
    return segmenter.encode(photograph())


def test_a_small_object_in_a_large_photograph_is_found_by_one_click(segmenter: Segmenter, state: ImageState) -> None:
    for row, col in OBJECTS:
        found = segmenter.segment(state, Click(col, row))
        assert found.mask.shape == SIZE
        assert iou(found.mask, disk(row, col)) > 0.9
        assert view_of(found).height < SIZE[0]


@pytest.mark.parametrize(
    "region",
    [Box(440, 240, 561, 361), Polygon.ellipse(500, 300, 61, 61)],
    ids=["box", "polygon"],
)
def test_a_region_chooses_a_view_that_is_somewhat_larger(
    segmenter: Segmenter, state: ImageState, region: Box | Polygon
) -> None:
    found = segmenter.segment(state, (), region)
    assert 1.4 < view_of(found).height / 121 < 2.5
    assert iou(found.mask, disk(300, 500)) > 0.7


def test_clicks_after_a_box_stay_in_its_view(segmenter: Segmenter, state: ImageState) -> None:
    box = Box(440, 240, 561, 361)
    alone = segmenter.segment(state, (), box)
    clicked = segmenter.segment(state, [Click(500, 300), Click(470, 270), Click(1700, 20, positive=False)], box)
    assert view_of(clicked) == view_of(alone)
    assert len(clicked.thresholds) == 3, "also of the click outside of the view"


def test_a_stroke_chooses_a_view_by_its_own_size(segmenter: Segmenter, state: ImageState) -> None:
    found = segmenter.segment(state, Scribble.along([(470, 300), (530, 300)], 9))
    assert view_of(found).width < SIZE[1] / 2
    assert iou(found.mask, disk(300, 500)) > 0.8


def test_further_clicks_stay_in_the_view_and_undoing_them_gives_the_earlier_masks(segmenter: Segmenter) -> None:
    state = segmenter.encode(photograph())
    clicks = [Click(500, 300), Click(500, 345), Click(520, 380, positive=False), Click(1600, 50, positive=False)]
    masks = [segmenter.segment(state, clicks[:count]) for count in range(1, 5)]
    for earlier, later in pairwise(masks):
        assert view_of(earlier) == view_of(later)
    for count in (3, 2, 1):
        again = segmenter.segment(segmenter.encode(photograph()), clicks[:count])
        assert np.array_equal(again.mask, masks[count - 1].mask), "also in a state that has seen nothing else"


def test_a_foreground_click_outside_of_the_view_widens_it(segmenter: Segmenter, state: ImageState) -> None:
    first = segmenter.segment(state, Click(500, 300))
    both = segmenter.segment(state, [Click(500, 300), Click(1500, 900)])
    assert view_of(both).height > view_of(first).height
    assert both.mask[300, 500]
    assert both.mask[900, 1500]


def test_a_click_outside_of_a_view_as_high_as_a_panorama_widens_it_to_a_part_of_the_panorama(
    segmenter: Segmenter,
) -> None:
    state, post = segmenter.encode(np.tile(photograph()[:600], (1, 3, 1))), Box(460, 80, 540, 520)
    assert view_of(segmenter.segment(state, (), post)).height == 600
    widened = view_of(segmenter.segment(state, Click(1000, 300), post))
    assert widened.left + widened.width > 1000
    assert widened.width < 3 * SIZE[1] / 2


def test_a_view_is_encoded_once_and_neighbors_share_it() -> None:
    backbone = Counting()
    segmenter = Segmenter(backbone, REFINED)
    state = segmenter.encode(photograph())
    assert backbone.sizes == [SIZE], "the first encoding is of the whole alone"
    segmenter.segment(state, Click(500, 300))
    after = len(backbone.sizes)
    segmenter.segment(state, [Click(500, 300), Click(520, 310)])
    segmenter.segment(state, Click(505, 290))
    assert len(backbone.sizes) == after <= 3, "at most two more than for the whole"


def test_a_photograph_that_is_not_larger_than_the_limit_has_the_same_masks_as_without_views() -> None:
    rgb = np.ascontiguousarray(photograph()[:700, :1024])
    clicks = [Click(500, 300), Click(540, 320), Click(100, 100, positive=False)]
    plain = Segmenter(ColorAffinity(grid=24), Hyperparameters(refine=True, least_cells=4.0, despeckle=1e-4))
    viewed = Segmenter(ColorAffinity(grid=24), REFINED)
    for box in (None, Box(440, 240, 561, 361)):
        expected, found = (each.segment(each.encode(rgb), clicks, box) for each in (plain, viewed))
        assert np.array_equal(expected.mask, found.mask)
        assert expected.score == found.score
        assert found.choice is None


def test_the_papers_method_looks_at_the_whole_alone() -> None:
    backbone = Counting()
    state = Segmenter(backbone, Hyperparameters(views=1024)).encode(photograph())
    assert state.views is None


def test_views_lie_inside_the_photograph_and_hold_their_prompt() -> None:
    for size in ((1200, 1800), (6000, 4000), (2049, 1025)):
        for row in range(0, size[0], 131):
            for col in range(0, size[1], 173):
                point = Bounds(col, row, col + 1, row + 1)
                for level in range(finest_level(size) + 1):
                    view = view_about(size, point, level)
                    assert view.holds(point)
                    assert View.whole(size).holds(
                        Bounds(view.left, view.top, view.left + view.width, view.top + view.height)
                    )


def test_a_view_of_a_panorama_is_no_thin_strip() -> None:
    size = (500, 20_000)
    view = view_about(size, Bounds(9000, 250, 9001, 251), finest_level(size))
    assert view.width < 1000
    assert view.height >= view.width / 2 - 1


def test_a_box_lies_well_inside_of_its_view() -> None:
    size = (3000, 4000)
    for side in (20, 100, 333, 700, 1900):
        for left in range(0, size[1] - side, 271):
            box = Bounds(left, 500, left + side, 500 + side)
            assert view_of_box(size, box).holds(box)


def test_neighboring_boxes_of_like_size_share_views() -> None:
    views = {view_of_box((3000, 4000), Bounds(x, 1000, x + 300, 1300)) for x in range(1000, 1200, 5)}
    assert len(views) <= 5, "of 40 boxes"


def test_the_views_and_the_clicks_in_the_chosen_one_are_explained(segmenter: Segmenter, tmp_path: Path) -> None:
    clicks = [Click(500, 300), Click(520, 380, positive=False), Click(1700, 20, positive=False)]
    paths = explain(segmenter, photograph(), clicks, tmp_path)
    assert [path.name for path in paths] == ["result.png", "views.png", "click_01.png", "click_02.png"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_the_command_tells_which_view_answered(tmp_path: Path) -> None:
    Image.fromarray(photograph()).save(tmp_path / "large.png", compress_level=1)
    Image.fromarray(photograph()[:400, :600]).save(tmp_path / "small.png", compress_level=1)
    settings = load_settings(backbone="color", grid=24, device="cpu", cache_dir=tmp_path)
    told = [
        segment_file(settings, tmp_path / name, [Click(500, 300)], [], out=tmp_path / "mask.png")
        for name in ("large.png", "small.png")
    ]
    left, top, width, height = told[0]["view"]
    assert left <= 500 < left + width < SIZE[1]
    assert top <= 300 < top + height < SIZE[0]
    assert told[1]["view"] is None
