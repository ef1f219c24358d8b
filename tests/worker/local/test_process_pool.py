"""The model in its own process, for real: spawned, fed, killed and replaced."""

from __future__ import annotations

import gc
import os
import subprocess
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from programs import program
from small_data_set import write_data
from waiting import LAST_RESORT_SECONDS, until

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.errors import BackboneUnavailable, ImageNeeded, InvalidImage, InvalidPrompt, NotReady
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click, Prompts
from m2n2_backend.resources import sample_photograph
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.interface import SourceImage, Work
from m2n2_backend.worker.local.pool import ProcessPool

ONE = Prompts((Click(225, 110),))
GRID = 16


def source(data: bytes, *, with_data: bool = True) -> SourceImage:
    image = SourceImage.of(data)
    return image if with_data else image.without_data()


def sample(tail: bytes = b"", *, with_data: bool = True) -> SourceImage:
    """The sample photograph; a tail makes another file of the same pixels."""
    return source(sample_photograph().read_bytes() + tail, with_data=with_data)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(backbone="color", device="cpu", grid=GRID, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pool(settings: Settings) -> Iterator[ProcessPool]:
    pool = ProcessPool(settings)
    yield pool
    pool.close()


def alone(settings: Settings, prompts: Prompts) -> np.ndarray:
    segmenter = Segmenter(ColorAffinity(grid=GRID), settings.method())
    rgb = decode_image(sample_photograph().read_bytes(), max_pixels=10**8)
    return segmenter.segment(segmenter.encode(rgb), prompts.clicks, prompts.boxes).mask


@pytest.mark.parametrize(
    "prompts", [ONE, Prompts((Click(225, 110), Click(40, 40, False))), Prompts((), (Box(60, 20, 400, 500),))]
)
def test_a_mask_is_the_one_computed_without_pool_and_caches(
    prompts: Prompts, pool: ProcessPool, settings: Settings
) -> None:
    answer = pool.segment(Work(sample(), prompts, LAST_RESORT_SECONDS))

    assert answer.mask.dtype == np.bool_
    assert np.array_equal(answer.mask, alone(settings, prompts))
    assert 0.0 <= answer.score <= 1.0


def test_twenty_simultaneous_first_clicks_encode_once_and_get_the_masks_they_would_get_alone(
    pool: ProcessPool, settings: Settings
) -> None:
    image = sample(b"twenty")
    prompts = [Prompts((Click(20 + 24 * index, 200),)) for index in range(20)]
    before = pool.stats()[0].figures.encoded

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda each: pool.segment(Work(image, each, LAST_RESORT_SECONDS)), prompts))

    assert pool.stats()[0].figures.encoded == before + 1
    for index in (0, 9, 19):
        assert np.array_equal(answers[index].mask, alone(settings, prompts[index]))


def test_an_image_that_was_sent_once_is_not_needed_again(pool: ProcessPool) -> None:
    first = pool.segment(Work(sample(), ONE, LAST_RESORT_SECONDS))
    again = pool.segment(Work(sample(with_data=False), ONE, LAST_RESORT_SECONDS))

    assert np.array_equal(first.mask, again.mask)
    assert set(again.timings_ms) == {"wait", "segment"}


def test_an_image_that_nobody_sent_is_asked_for(pool: ProcessPool) -> None:
    with pytest.raises(ImageNeeded):
        pool.segment(Work(source(b"never seen", with_data=False), ONE, LAST_RESORT_SECONDS))


def test_a_prefetched_image_is_not_encoded_by_its_first_click(pool: ProcessPool) -> None:
    image = sample(b"prefetched")
    before = pool.stats()[0].figures.encoded
    assert pool.prefetch(image)
    assert pool.prefetch(image)
    # Not only until the model has run: a click before the rest is done is told what has run for it.
    (worker,) = pool._dispatcher.workers
    until(lambda: not worker.is_working_on(image.key))
    assert pool.stats()[0].figures.encoded == before + 1

    answer = pool.segment(Work(source(image.data or b"", with_data=False), ONE, LAST_RESORT_SECONDS))

    assert "encode" not in answer.timings_ms
    assert pool.stats()[0].figures.encoded == before + 1


def test_the_model_version_and_the_status_say_what_decides_the_mask(pool: ProcessPool) -> None:
    answer = pool.segment(Work(sample(), ONE, LAST_RESORT_SECONDS))
    status = pool.status()

    assert answer.model_version == status.model_version
    assert f"color-2-g{GRID}" in status.model_version
    assert (status.state, status.device) == ("ready", "cpu")
    assert "no neural network" in status.backbone


def test_bad_input_is_refused_and_the_next_request_answered(pool: ProcessPool) -> None:
    with pytest.raises(InvalidImage):
        pool.segment(Work(source(b"no image"), ONE, LAST_RESORT_SECONDS))
    with pytest.raises(InvalidPrompt, match="512x512"):
        pool.segment(Work(sample(), Prompts((Click(512, 3),)), LAST_RESORT_SECONDS))

    assert pool.segment(Work(sample(), ONE, LAST_RESORT_SECONDS)).mask.any()


def test_a_refused_click_leaves_nothing_of_its_image_in_memory(pool: ProcessPool) -> None:
    image = source(b"no image")
    left = weakref.ref(image)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(InvalidImage):
            pool.segment(Work(image, ONE, LAST_RESORT_SECONDS))
        del image
        end = time.monotonic() + 10
        while left() is not None and time.monotonic() < end:
            time.sleep(0.01)
        assert left() is None
    finally:
        gc.enable()


def test_a_passed_deadline_says_that_the_model_was_busy(pool: ProcessPool) -> None:
    pool.segment(Work(sample(), ONE, LAST_RESORT_SECONDS))
    before = pool.stats()[0].timed_out

    with pytest.raises(NotReady, match="busy until the deadline"):
        pool.segment(Work(sample(), ONE, 0.0))
    assert pool.stats()[0].timed_out == before + 1, "once, whoever noticed"


def test_the_web_process_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time, m2n2_backend.server.run, m2n2_backend.cli, m2n2_backend.backbones.weights.names\n"
        "from m2n2_backend.settings import load_settings\n"
        "from m2n2_backend.worker.local.pool import ProcessPool\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPool(load_settings(backbone='color', device='cpu', grid=8))\n"
        "    while pool.status().state == 'loading': time.sleep(0.05)\n"
        "    print(pool.status().state, [name for name in ('torch', 'numba', 'diffusers') if name in sys.modules])\n"
        "    pool.close()\n"
    )

    done = subprocess.run(**program(tmp_path, code), capture_output=True, text=True, timeout=LAST_RESORT_SECONDS)

    assert done.stdout.strip() == "ready []", done.stderr


def test_a_model_that_cannot_be_loaded_answers_with_the_cure(tmp_path: Path) -> None:
    broken = ProcessPool(load_settings(backbone="sd2", model=str(tmp_path), device="cpu", cache_dir=tmp_path))
    try:
        with pytest.raises(BackboneUnavailable, match="--model"):
            broken.segment(Work(sample(), ONE, LAST_RESORT_SECONDS))
        assert broken.status().state == "failed"
        assert "--model" in broken.status().detail
    finally:
        broken.close()


def test_a_closed_pool_says_that_it_is_shutting_down_and_leaves_no_process(settings: Settings) -> None:
    closed = ProcessPool(settings)
    closed.segment(Work(sample(), ONE, LAST_RESORT_SECONDS))
    pid = closed.pids[0]
    closed.close()

    with pytest.raises(NotReady, match="shutting down"):
        closed.segment(Work(sample(), ONE, LAST_RESORT_SECONDS))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_photographs_in_turn_never_get_each_others_masks(pool: ProcessPool, tmp_path: Path) -> None:
    files = [path.read_bytes() for path in sorted((write_data(tmp_path) / "images").iterdir())[:4]]
    prompts = Prompts((Click(10, 10),))
    first = [pool.segment(Work(source(data), prompts, LAST_RESORT_SECONDS)).mask for data in files]

    with ThreadPoolExecutor(8) as threads:
        rounds = list(
            threads.map(lambda data: pool.segment(Work(source(data), prompts, LAST_RESORT_SECONDS)).mask, files * 8)
        )

    assert all(np.array_equal(mask, first[index % 4]) for index, mask in enumerate(rounds))
