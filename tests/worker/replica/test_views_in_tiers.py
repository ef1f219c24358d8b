"""Views of a large photograph in the tiers: what is encoded again, what is kept, and what is asked for."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_data_set import one_thread

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.errors import ImageNeeded
from m2n2_backend.m2n2.paper.attention import AttentionFeatures
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click, Prompts
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.interface import SourceImage, Subject, Work
from m2n2_backend.worker.messages import Done
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.steps import Replica

SIZE = (700, 1000)
CLICK = Prompts((Click(300, 200),))
BOX = Prompts((), (Box(260, 160, 341, 241),))
ELSEWHERE = Prompts((), (Box(660, 460, 741, 541),))


class Counting(ColorAffinity):
    """Counts its runs."""

    def __init__(self) -> None:
        super().__init__(grid=16)
        self.calls = 0

    def features(self, rgb: np.ndarray) -> AttentionFeatures:
        self.calls += 1
        return super().features(rgb)


def photograph(shade: int = 0) -> np.ndarray:
    rgb = np.random.default_rng(shade).integers(60, 90, (*SIZE, 3), np.uint8)
    rows, cols = np.ogrid[: SIZE[0], : SIZE[1]]
    for row, col in ((200, 300), (500, 700)):
        rgb[(rows - row) ** 2 + (cols - col) ** 2 <= 40**2] = (220, 90, 40)
    return rgb


def source(shade: int = 0) -> SourceImage:
    file = io.BytesIO()
    Image.fromarray(photograph(shade)).save(file, "PNG", compress_level=1)
    return SourceImage(hashlib.sha256(file.getvalue()).hexdigest(), file.getvalue())


def without_data(image: SourceImage) -> SourceImage:
    return SourceImage(image.key, None)


def engine(tmp_path: Path, **limits: Any) -> Engine:
    return Engine(Counting(), load_settings(cache_dir=tmp_path, device="cpu", working_size=512, **limits))


def answer(made: Engine, image: SourceImage, prompts: Prompts) -> Segmentation:
    with one_thread():
        return made.segment(image, prompts)[0]


def runs(made: Engine) -> int:
    assert isinstance(made.backbone, Counting)
    return made.backbone.calls


@pytest.mark.parametrize("prompts", [CLICK, BOX], ids=["click", "box"])
@pytest.mark.parametrize("limits", [{}, {"device_cache": 0, "memory_cache": 0}], ids=["room", "no room"])
def test_the_worker_gives_the_masks_of_the_python_api(
    tmp_path: Path, prompts: Prompts, limits: dict[str, int]
) -> None:
    made, image = engine(tmp_path, **limits), source()
    found = answer(made, image, prompts)
    with one_thread():
        segmenter = Segmenter(ColorAffinity(grid=16), load_settings(working_size=512).method())
        expected = segmenter.segment(segmenter.encode(photograph()), prompts.clicks, prompts.boxes)
    assert expected.choice is not None
    assert expected.choice.view.height < SIZE[0]
    assert found.choice == expected.choice
    assert np.array_equal(found.mask, expected.mask)


def test_a_further_click_in_a_view_needs_neither_model_nor_file(tmp_path: Path) -> None:
    made, image = engine(tmp_path), source()
    answer(made, image, CLICK)
    before = runs(made)
    answer(made, without_data(image), Prompts((*CLICK.clicks, Click(320, 220))))
    assert runs(made) == before <= 3, "at most two more than for the whole"


def test_without_views_a_large_photograph_is_encoded_once(tmp_path: Path) -> None:
    made = engine(tmp_path, views=False)
    assert answer(made, source(), CLICK).choice is None
    assert runs(made) == 1


def test_a_view_that_was_evicted_comes_from_disk(tmp_path: Path) -> None:
    answer(engine(tmp_path), source(), BOX)
    again = engine(tmp_path)
    answer(again, without_data(source()), BOX)
    assert runs(again) == 0


def test_a_new_view_asks_for_the_file(tmp_path: Path) -> None:
    made, image = engine(tmp_path), source()
    answer(made, image, BOX)
    with pytest.raises(ImageNeeded):
        answer(made, without_data(image), ELSEWHERE)
    answer(made, image, ELSEWHERE)


def test_the_bytes_of_views_count_and_the_oldest_make_room(tmp_path: Path) -> None:
    made, image = engine(tmp_path), source()
    answer(made, image, BOX)
    states = made.memory.states
    assert len(states) == 2, "the whole and the view"
    small = engine(tmp_path, device_cache=states.nbytes + 1000)
    for shade in range(3):
        answer(small, source(shade), BOX)
        assert small.memory.states.nbytes <= small.memory.states.limit
    assert small.memory.states.evictions > 0


def test_two_objects_of_one_photograph_at_once_are_both_answered(tmp_path: Path) -> None:
    made, image = engine(tmp_path, device_cache=0, memory_cache=0), source()
    made.warm_up()
    replica = Replica(made, capacity=4)
    try:
        waiting = [replica.submit(Work(image, prompts, 120.0, rle=True)) for prompts in (BOX, ELSEWHERE, CLICK)]
        replies = [each.result(timeout=120.0).result for each in waiting]
    finally:
        replica.close()
    for reply, (row, col) in zip(replies, ((200, 300), (500, 700), (200, 300)), strict=True):
        assert isinstance(reply, Done)
        assert reply.unpacked()[row, col]


def test_clicks_of_several_projects_on_one_photograph_do_not_take_the_only_room_from_each_other_for_ever(
    tmp_path: Path,
) -> None:
    made, image = engine(tmp_path, device_cache=0), source()
    made.warm_up()
    replica = Replica(made, capacity=8)
    try:
        waiting = [
            replica.submit(Work(image, prompts, 20.0, Subject(f"project {number}", "1", None, frozenset({"a"}))))
            for number, prompts in enumerate((BOX, ELSEWHERE, CLICK, Prompts((Click(700, 500),))))
        ]
        replies = [each.result(timeout=60.0).result for each in waiting]
    finally:
        replica.close()
    for reply, (row, col) in zip(replies, ((200, 300), (500, 700)) * 2, strict=True):
        assert isinstance(reply, Done), "projects take turns, and each turned the photograph to its own view"
        assert reply.unpacked()[row, col]
