"""Caches that are bounded in bytes take no more than they say, whatever a client puts into keys and small entries."""

from __future__ import annotations

import gc
import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone, scene
from label_studio_fakes import CONFIG

from m2n2_backend.errors import InvalidImage, M2N2Error
from m2n2_backend.labelstudio.contract.label_config import LabelConfigs
from m2n2_backend.labelstudio.images.cached import CachedImages
from m2n2_backend.labelstudio.images.reader import ImageRef, Validators
from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.places import Placed, Stroke, place_key, prefix_keys, start_key
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Box, Click, Polygon, Scribble
from m2n2_backend.worker.interface import SourceImage

CORNERS = 10_000
SLACK = 16 * 1024  # of what is made once


class Growth:
    real = 0


@contextmanager
def growth() -> Iterator[Growth]:
    """What is allocated in the body and still held after it, in bytes."""
    found = Growth()
    gc.collect()
    tracemalloc.start()
    yield found
    gc.collect()
    found.real = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


def outline(seed: int) -> Polygon:
    angle = np.sort(np.random.default_rng(seed).uniform(0, 2 * np.pi, CORNERS))
    return Polygon(tuple(zip((45 + 30 * np.cos(angle)).tolist(), (30 + 20 * np.sin(angle)).tolist(), strict=True)))


def brush(seed: int) -> Scribble:
    """A stroke over most of the picture."""
    covered = np.random.default_rng(seed).random((60, 90)) < 0.9
    return Scribble.of(covered)


def polygons(segmenter: Segmenter, state: ImageState) -> ByteCache[Any]:
    for seed in range(3):
        segmenter.segment(state, (), outline(seed))
        segmenter.segment(state, (Click(45, 30),), outline(seed))
    return state.steps


def brushes(segmenter: Segmenter, state: ImageState) -> ByteCache[Any]:
    for seed in range(4):
        segmenter.segment(state, [brush(10 * seed + number) for number in range(4)])
    return state.steps


def places(segmenter: Segmenter, state: ImageState) -> ByteCache[Any]:
    for seed in range(8):
        segmenter.prompt_map(state, brush(seed))
    return state.clicks


def cells(segmenter: Segmenter, state: ImageState) -> ByteCache[Any]:
    for seed in range(20):
        segmenter.prompt_map(state, brush(seed))
    return state.cells


def many_clicks(segmenter: Segmenter, state: ImageState) -> ByteCache[Any]:
    segmenter.segment(state, [Click(5 + 4 * (i % 20), 5 + 12 * (i // 20), positive=i % 3 > 0) for i in range(40)])
    return state.steps


@pytest.mark.parametrize("fill", [polygons, brushes, places, cells, many_clicks])
def test_the_memos_of_an_image_hold_no_more_than_they_say(fill: Callable[..., ByteCache[Any]]) -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(refine=True))
    state = segmenter.encode(scene())
    fill(segmenter, state)  # so that kernels are compiled and tables made
    memos = (state.cells, state.clicks, state.steps)
    for memo in memos:
        memo.clear()

    with growth() as held:
        filled = fill(segmenter, state)
        for memo in memos:
            if memo is not filled:
                memo.clear()

    assert len(filled) > 2
    assert held.real <= 1.1 * filled.nbytes + SLACK
    assert state.memo_bytes == filled.nbytes


def test_maps_of_cells_made_together_are_not_held_together() -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(batch=64))
    state = segmenter.encode(scene())
    segmenter.segment(state, [Click(x, 30) for x in range(10, 74)])

    assert all(own.base is None for own in state.cells.values())


def test_tiny_entries_count_what_the_cache_itself_needs_for_them() -> None:
    cache = ByteCache[np.ndarray](10**9)
    with growth() as held:
        for number in range(5000):
            cache.put(f"{number:064x}", np.zeros(1, np.uint8))
    assert held.real <= cache.nbytes
    bounded = ByteCache[np.ndarray](100_000)
    for number in range(5000):
        bounded.put(f"{number:064x}", np.zeros(1, np.uint8))
    assert len(bounded) <= 200


def test_the_same_prompts_have_the_same_keys_however_they_were_made() -> None:
    click = Placed((3, 4), True)
    one = prefix_keys([outline(1)], [click, Placed(Stroke.of(np.eye(5, dtype=bool)), False)])
    same = Polygon([list(xy) for xy in outline(1).points])  # type: ignore[arg-type]
    again = prefix_keys([same], [Placed((3, 4), 1), Placed(Stroke.of(np.eye(5) > 0), 0)])  # type: ignore[arg-type]
    assert one == again
    assert [len(key) for key in one] == [32, 32, 32]
    corner = ((-0.0, 0.0), (9.0, 0.0), (9.0, 9.0))
    assert prefix_keys([Polygon(corner)], []) == prefix_keys([Polygon(((0.0, 0.0), *corner[1:]))], [])


def test_different_prompts_have_different_keys() -> None:
    dot, line = Stroke.of(np.eye(1, dtype=bool)), Stroke.of(np.ones((1, 2), bool))
    a, b = Box(0, 0, 4, 4), Box(4, 4, 9, 9)
    corners = Polygon(((0, 0), (4, 0), (4, 4), (0, 4)))
    prompts: list[tuple[Any, Any, Any]] = [
        ([], [(0, 0)], [True]),
        ([], [(0, 0)], [False]),
        ([], [dot], [True]),
        ([], [line], [True]),
        ([], [(0, 0), (0, 1)], [True, True]),
        ([], [(0, 1), (0, 0)], [True, True]),
        ([], [(0, 0), (0, 1)], [True, False]),
        ([], [(0, 256)], [True]),
        ([a], [(0, 0)], [True]),
        ([a], [], []),
        ([corners], [], []),
        ([a, b], [], []),
        ([b, a], [], []),
        ([Box(0, 0, 4, 4), a], [], []),
    ]
    keys = [prefix_keys(regions, list(map(Placed, places, labels)))[-1] for regions, places, labels in prompts]
    keys += [place_key((0, 0)), place_key(dot), start_key(((0, 1.0),)), start_key(((0, 0.5), (1, 0.5)))]
    assert all(one != other for one, other in combinations(keys, 2))


def test_an_outline_that_was_drawn_before_is_answered_from_the_memo_with_the_same_mask() -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(refine=True))
    state = segmenter.encode(scene())
    first = segmenter.segment(state, (Click(45, 30), brush(1)), outline(1))
    misses = state.steps.misses
    again = segmenter.segment(state, (Click(45, 30), brush(1)), outline(1))
    fresh = segmenter.segment(segmenter.encode(scene()), (Click(45, 30), brush(1)), outline(1))

    assert state.steps.misses == misses
    assert np.array_equal(first.mask, again.mask)
    assert np.array_equal(first.mask, fresh.mask)


def test_a_scribble_is_hashed_once_however_many_clicks_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    real = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data: hashed.append(len(data)) or real(data))
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(refine=True))
    state = segmenter.encode(scene())
    prompts = [brush(number) for number in range(6)]
    segmenter.segment(state, prompts)

    large = sum(size > 20_000 for size in hashed)
    assert large == len(prompts)


class Reader:
    """Reads a tiny file of its own for each address, or fails with a large one in its hands."""

    def __init__(self, fails_with: bytes = b"") -> None:
        self.fails_with = fails_with

    def host(self, ref: ImageRef) -> str:
        return "a"

    def fetch_if_changed(
        self, ref: ImageRef, known: Validators, *, deadline: float
    ) -> tuple[SourceImage | None, Validators]:
        if self.fails_with:
            held = bytearray(self.fails_with)
            raise InvalidImage(f"{len(held)} bytes are no image")
        name = ref.url.rpartition("/")[2]
        return SourceImage(name, name[:8].encode(), (1, 1)), Validators()


def test_files_of_a_few_bytes_count_their_keys_among_the_recent_ones() -> None:
    media = CachedImages(Reader(), fresh_seconds=300.0)  # type: ignore[arg-type]
    with growth() as held:
        for number in range(3000):
            media.fetch(ImageRef(f"http://a/{number:064x}"))
        media._known.clear()
    assert len(media._recent) == 3000
    assert held.real <= media._recent.currsize + SLACK


def test_a_failure_that_is_kept_for_further_clicks_does_not_keep_the_file() -> None:
    media = CachedImages(Reader(bytes(10**6)), fresh_seconds=300.0)  # type: ignore[arg-type]
    with growth() as held:
        for number in range(20):
            with pytest.raises(M2N2Error, match="1000000 bytes are no image"):
                media.fetch(ImageRef(f"http://a/{number}"))
    assert len(media._failed) == 20
    assert held.real < 10**6


@pytest.mark.parametrize("label", ["a", "\N{GRINNING FACE}" * 300], ids=["many short labels", "long labels"])
def test_labeling_configs_take_a_few_bytes_for_each_character_that_is_counted(label: str) -> None:
    configs = LabelConfigs()
    configs.read(CONFIG)
    before = configs._known.currsize
    with growth() as held:
        for number in range(3):
            labels = "".join(
                f'<Label value="{label}{each}"/>' for each in range(min(5000, 200_000 // (len(label) + 20)))
            )
            configs.read(
                CONFIG.replace("</View>", f'<Labels name="l{number}" toName="image">{labels}</Labels></View>')
            )
            del labels
    counted = configs._known.currsize - before
    assert counted > 300_000
    assert held.real <= 8 * counted
