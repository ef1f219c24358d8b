"""The model behind the web process, for real: color backbone, real photographs."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from m2n2_backend.errors import BackboneUnavailable, InvalidImage, InvalidPrompt, NotReady
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.resources import sample_photograph
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.local import LocalPool
from m2n2_backend.worker.pool import SourceImage

ONE = Prompts((Click(225, 110),))


def source(data: bytes) -> SourceImage:
    return SourceImage(hashlib.sha256(data).hexdigest(), data)


def sample() -> SourceImage:
    return source(sample_photograph().read_bytes())


def soon() -> float:
    return time.monotonic() + 60


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(backbone="color", device="cpu", grid=24, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pool(settings: Settings):  # noqa: ANN201
    pool = LocalPool(settings)
    yield pool
    pool.close()


def test_a_click_gives_a_mask_of_the_photographs_size(pool: LocalPool) -> None:
    answer = pool.segment(sample(), ONE, deadline=soon())
    assert answer.mask.shape == (512, 512)
    assert answer.mask[110, 225]
    assert 0.0 <= answer.score <= 1.0


def test_the_second_request_for_an_image_does_not_encode_it_again(pool: LocalPool) -> None:
    pool.segment(sample(), ONE, deadline=soon())
    again = pool.segment(sample(), ONE, deadline=soon())
    assert again.timings_ms["encode"] < 1.0


def test_the_model_version_names_what_decides_the_mask(pool: LocalPool) -> None:
    answer = pool.segment(sample(), ONE, deadline=soon())
    assert answer.model_version == pool.status().model_version
    assert "color-1-g24" in answer.model_version


def test_status_says_plainly_that_the_embedded_default_is_no_network(pool: LocalPool) -> None:
    pool.segment(sample(), ONE, deadline=soon())
    assert pool.status().state == "ready"
    assert "no neural network" in pool.status().backbone


def test_threads_get_the_masks_they_would_get_alone(pool: LocalPool) -> None:
    points = [Prompts((Click(x, 200),)) for x in range(20, 500, 60)]
    alone = [pool.segment(sample(), point, deadline=soon()).mask for point in points]
    together: dict[int, np.ndarray] = {}

    def ask(index: int) -> None:
        together[index] = pool.segment(sample(), points[index], deadline=soon()).mask

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(points))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(alone[index], together[index]) for index in range(len(points)))


def test_an_unreadable_image_is_refused_and_the_next_one_answered(pool: LocalPool) -> None:
    with pytest.raises(InvalidImage):
        pool.segment(source(b"no image"), ONE, deadline=soon())
    assert pool.segment(sample(), ONE, deadline=soon()).mask.any()


def test_a_point_outside_of_the_image_is_refused(pool: LocalPool) -> None:
    with pytest.raises(InvalidPrompt, match="512x512"):
        pool.segment(sample(), Prompts((Click(512, 3),)), deadline=soon())


def test_a_passed_deadline_says_that_the_model_was_busy(pool: LocalPool) -> None:
    pool.segment(sample(), ONE, deadline=soon())
    with pool._lock, pytest.raises(NotReady, match="busy"):
        pool.segment(sample(), ONE, deadline=time.monotonic())


def test_memory_for_images_is_bounded_and_the_newest_stays(settings: Settings) -> None:
    from m2n2_backend.demo import sample_photograph as photograph

    small = LocalPool(settings.model_copy(update={"image_memory": 1}))
    data = photograph().read_bytes()
    for tail in (b"", b"\0", b"\0\0"):
        small.segment(source(data + tail), ONE, deadline=soon())
        assert list(small._states) == [source(data + tail).key]
    small.close()


def test_a_model_that_cannot_be_loaded_answers_with_the_cure(tmp_path: Path) -> None:
    broken = LocalPool(load_settings(backbone="sd2", model=str(tmp_path), device="cpu", cache_dir=tmp_path))
    with pytest.raises(BackboneUnavailable, match="--model"):
        broken.segment(sample(), ONE, deadline=soon())
    assert broken.status().state == "failed"


def test_a_closed_pool_says_that_it_is_shutting_down(settings: Settings) -> None:
    closed = LocalPool(settings)
    closed.segment(sample(), ONE, deadline=soon())
    closed.close()
    with pytest.raises(NotReady, match="shutting down"):
        closed.segment(sample(), ONE, deadline=soon())
