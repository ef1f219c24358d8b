"""The model in its own process, for real: spawned, fed, killed and replaced."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_data_set import write_data

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.errors import BackboneUnavailable, ImageNeeded, InvalidImage, InvalidPrompt, NotReady
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click, Prompts
from m2n2_backend.resources import sample_photograph
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.pool import Answer, SourceImage, Subject
from m2n2_backend.worker.process_pool import ProcessPool

ONE = Prompts((Click(225, 110),))
GRID = 16


def source(data: bytes, *, with_data: bool = True) -> SourceImage:
    return SourceImage(hashlib.sha256(data).hexdigest(), data if with_data else None)


def sample(tail: bytes = b"", *, with_data: bool = True) -> SourceImage:
    """The sample photograph; a tail makes another file of the same pixels."""
    return source(sample_photograph().read_bytes() + tail, with_data=with_data)


def soon() -> float:
    return time.monotonic() + 120


def until(condition) -> None:  # noqa: ANN001
    """Wait for what another thread brings about."""
    end = soon()
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


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
    answer = pool.segment(sample(), prompts, deadline=soon())

    assert answer.mask.dtype == np.bool_
    assert np.array_equal(answer.mask, alone(settings, prompts))
    assert 0.0 <= answer.score <= 1.0


def test_twenty_simultaneous_first_clicks_encode_once_and_get_the_masks_they_would_get_alone(
    pool: ProcessPool, settings: Settings
) -> None:
    image = sample(b"twenty")
    prompts = [Prompts((Click(20 + 24 * index, 200),)) for index in range(20)]
    before = pool.stats()[0].encoded

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda each: pool.segment(image, each, deadline=soon()), prompts))

    assert pool.stats()[0].encoded == before + 1
    for index in (0, 9, 19):
        assert np.array_equal(answers[index].mask, alone(settings, prompts[index]))


def test_an_image_that_was_sent_once_is_not_needed_again(pool: ProcessPool) -> None:
    first = pool.segment(sample(), ONE, deadline=soon())
    again = pool.segment(sample(with_data=False), ONE, deadline=soon())

    assert np.array_equal(first.mask, again.mask)
    assert set(again.timings_ms) == {"wait", "segment"}


def test_an_image_that_nobody_sent_is_asked_for(pool: ProcessPool) -> None:
    with pytest.raises(ImageNeeded):
        pool.segment(source(b"never seen", with_data=False), ONE, deadline=soon())


def test_a_prefetched_image_is_not_encoded_by_its_first_click(pool: ProcessPool) -> None:
    image = sample(b"prefetched")
    before = pool.stats()[0].encoded
    assert pool.prefetch(image)
    assert pool.prefetch(image)
    until(lambda: pool.stats()[0].encoded == before + 1)

    answer = pool.segment(source(image.data or b"", with_data=False), ONE, deadline=soon())

    assert "encode" not in answer.timings_ms
    assert pool.stats()[0].encoded == before + 1


def test_the_model_version_and_the_status_say_what_decides_the_mask(pool: ProcessPool) -> None:
    answer = pool.segment(sample(), ONE, deadline=soon())
    status = pool.status()

    assert answer.model_version == status.model_version
    assert f"color-1-g{GRID}" in status.model_version
    assert (status.state, status.device) == ("ready", "cpu")
    assert "no neural network" in status.backbone


def test_bad_input_is_refused_and_the_next_request_answered(pool: ProcessPool) -> None:
    with pytest.raises(InvalidImage):
        pool.segment(source(b"no image"), ONE, deadline=soon())
    with pytest.raises(InvalidPrompt, match="512x512"):
        pool.segment(sample(), Prompts((Click(512, 3),)), deadline=soon())

    assert pool.segment(sample(), ONE, deadline=soon()).mask.any()


def test_a_passed_deadline_says_that_the_model_was_busy(pool: ProcessPool) -> None:
    pool.segment(sample(), ONE, deadline=soon())
    before = pool.stats()[0].timed_out

    with pytest.raises(NotReady, match="busy until the deadline"):
        pool.segment(sample(), ONE, deadline=time.monotonic())
    assert pool.stats()[0].timed_out > before


def test_the_web_process_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time, m2n2_backend.server.run, m2n2_backend.cli, m2n2_backend.backbones.names\n"
        "from m2n2_backend.settings import load_settings\n"
        "from m2n2_backend.worker.process_pool import ProcessPool\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPool(load_settings(backbone='color', device='cpu', grid=8))\n"
        "    while pool.status().state == 'loading': time.sleep(0.05)\n"
        "    print(pool.status().state, [name for name in ('torch', 'numba', 'diffusers') if name in sys.modules])\n"
        "    pool.close()\n"
    )
    script = tmp_path / "web.py"
    script.write_text(code)
    environment = {**os.environ, "M2N2_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=environment)

    assert done.stdout.strip() == "ready []", done.stderr


def kill(pool: ProcessPool) -> None:
    os.kill(pool.pids[0], signal.SIGKILL)


def test_a_killed_worker_is_replaced_and_the_request_in_flight_answered(
    pool: ProcessPool, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    pool.segment(sample(), ONE, deadline=soon())
    restarts, pid = pool.stats()[0].restarts, pool.pids[0]
    answers: list[Answer] = []
    os.kill(pid, signal.SIGSTOP)  # so that the request is in flight for sure when the worker dies
    asking = threading.Thread(target=lambda: answers.append(pool.segment(sample(), ONE, deadline=soon())))
    asking.start()
    until(lambda: pool._workers[0].is_working_on(sample().key) and len(pool._workers[0].queue) == 0)
    kill(pool)
    asking.join(120)

    assert np.array_equal(answers[0].mask, alone(settings, ONE))
    assert pool.pids[0] != pid
    assert pool.stats()[0].restarts == restarts + 1
    assert "was killed, perhaps for lack of memory" in caplog.text


def test_while_a_worker_is_replaced_the_status_is_degraded_and_requests_wait_for_it(pool: ProcessPool) -> None:
    pool.segment(sample(), ONE, deadline=soon())
    kill(pool)
    until(lambda: pool.status().state == "degraded")

    assert "starting it again" in pool.status().detail
    assert pool.segment(sample(with_data=False), ONE, deadline=soon()).mask.any(), "the disk has the image"
    assert pool.status().state == "ready"


def test_a_request_that_kills_its_worker_twice_is_answered_with_the_cause(pool: ProcessPool) -> None:
    pool.segment(sample(), ONE, deadline=soon())
    image, failed = sample(b"poison"), []

    def ask() -> None:
        with pytest.raises(NotReady, match="2 times with this image"):
            pool.segment(image, ONE, deadline=soon())
        failed.append(True)

    asking = threading.Thread(target=ask)
    worker = pool._workers[0]
    os.kill(pool.pids[0], signal.SIGSTOP)
    asking.start()
    for _ in range(2):
        until(lambda: worker.alive and worker.is_working_on(image.key) and len(worker.queue) == 0)
        kill(pool)
        until(lambda: not worker.alive)
    asking.join(120)

    assert failed
    assert pool.segment(sample(), ONE, deadline=soon()).mask.any()


def test_two_workers_share_the_images_and_an_image_stays_with_its_worker(settings: Settings) -> None:
    pool = ProcessPool(settings.model_copy(update={"workers": 2, "cache_dir": settings.cache_dir / "two"}))
    try:
        images = [sample(bytes([index])) for index in range(8)]
        for image in images * 2:
            pool.segment(image, ONE, deadline=soon())
            until(lambda: len(pool._workers) == 2 and all(worker.alive for worker in pool._workers))
        for image in images:
            pool.segment(image, ONE, deadline=soon())
        stats = pool.stats()
        assert pool.status().device == "2 x cpu"
        assert [worker.encoded > 0 for worker in stats] == [True, True]
        assert sum(worker.encoded for worker in stats) <= 9, "the first may have moved when the second worker came"

        os.kill(pool.pids[0], signal.SIGKILL)
        until(lambda: not pool._workers[0].alive)
        for image in images:
            assert pool.segment(SourceImage(image.key, None), ONE, deadline=soon()).mask.any(), "from the shared disk"
    finally:
        pool.close()


def test_clicks_on_one_object_that_came_while_the_worker_was_busy_are_one_request(pool: ProcessPool) -> None:
    pool.segment(sample(), ONE, deadline=soon())
    before = pool.stats()[0].superseded
    pid, points = pool.pids[0], [Click(225, 110), Click(230, 200), Click(40, 40, False)]
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as threads:
            blocker = threads.submit(pool.segment, sample(), ONE, deadline=soon())
            until(lambda: pool._workers[0].is_working_on(sample().key) and len(pool._workers[0].queue) == 0)
            asked = []
            for count in (1, 2, 3):
                subject = Subject("1", "7", "Cat", frozenset("abc"[:count]))
                prompts = Prompts(tuple(points[:count]))
                asked.append(threads.submit(pool.segment, sample(), prompts, deadline=soon(), subject=subject))
                until(lambda: len(pool._workers[0].queue) == 1 and pool.stats()[0].superseded == before + count - 1)  # noqa: B023
            os.kill(pid, signal.SIGCONT)
            masks = [each.result(120).mask for each in asked]
            blocker.result(120)
    finally:
        os.kill(pid, signal.SIGCONT)

    direct = pool.segment(sample(), Prompts(tuple(points)), deadline=soon()).mask
    assert all(np.array_equal(mask, direct) for mask in masks)


def test_a_model_that_cannot_be_loaded_answers_with_the_cure(tmp_path: Path) -> None:
    broken = ProcessPool(load_settings(backbone="sd2", model=str(tmp_path), device="cpu", cache_dir=tmp_path))
    try:
        with pytest.raises(BackboneUnavailable, match="--model"):
            broken.segment(sample(), ONE, deadline=soon())
        assert broken.status().state == "failed"
        assert "--model" in broken.status().detail
    finally:
        broken.close()


def test_a_closed_pool_says_that_it_is_shutting_down_and_leaves_no_process(settings: Settings) -> None:
    closed = ProcessPool(settings)
    closed.segment(sample(), ONE, deadline=soon())
    pid = closed.pids[0]
    closed.close()

    with pytest.raises(NotReady, match="shutting down"):
        closed.segment(sample(), ONE, deadline=soon())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_photographs_in_turn_never_get_each_others_masks(pool: ProcessPool, tmp_path: Path) -> None:
    files = [path.read_bytes() for path in sorted((write_data(tmp_path) / "images").iterdir())[:4]]
    prompts = Prompts((Click(10, 10),))
    first = [pool.segment(source(data), prompts, deadline=soon()).mask for data in files]

    with ThreadPoolExecutor(8) as threads:
        rounds = list(threads.map(lambda data: pool.segment(source(data), prompts, deadline=soon()).mask, files * 8))

    assert all(np.array_equal(mask, first[index % 4]) for index, mask in enumerate(rounds))
