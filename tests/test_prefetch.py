"""Opening a task encodes its image in the background, and never gets in anybody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from label_studio_fakes import CONFIG, CountingMedia, DiscPool, payload, settings

from m2n2_backend.errors import ImageUnavailable
from m2n2_backend.labelstudio.images.reader import ImageRef
from m2n2_backend.labelstudio.prefetch import Prefetcher
from m2n2_backend.server.app import create_app
from m2n2_backend.worker.pool import SourceImage


class GatedMedia(CountingMedia):
    """Reads when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.fail = False

    def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
        self.refs.append(ref)
        assert self.gate.wait(20)
        if self.fail:
            raise ImageUnavailable("gone")
        image = super().fetch(ref, deadline=deadline, data_needed=data_needed)
        self.refs.pop()
        return image


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def task(number: int) -> dict[str, Any]:
    return {"id": number, "data": {"image": f"/data/upload/{number}.png"}}


@pytest.fixture
def media() -> GatedMedia:
    return GatedMedia()


@pytest.fixture
def pool() -> DiscPool:
    return DiscPool()


@pytest.fixture
def prefetcher(pool: DiscPool, media: GatedMedia) -> Iterator[Prefetcher]:
    prefetcher = Prefetcher(pool, media, timeout=5, upcoming=lambda project, opened: [task(8), task(9)])
    yield prefetcher
    prefetcher.close()


def opened(prefetcher: Prefetcher, number: int = 7, project: str = "1") -> None:
    prefetcher.opened(task(number), CONFIG, project=project, hostname=None)


def test_the_opened_task_and_the_next_ones_are_handed_to_the_model_in_this_order(
    prefetcher: Prefetcher, pool: DiscPool, media: GatedMedia
) -> None:
    opened(prefetcher)
    until(lambda: len(pool.prefetched) == 3)

    assert [ref.url for ref in media.refs] == [f"/data/upload/{number}.png" for number in (7, 8, 9)]


def test_a_task_opened_twice_at_once_is_read_once(prefetcher: Prefetcher, media: GatedMedia, pool: DiscPool) -> None:
    opened(prefetcher)
    opened(prefetcher)
    opened(prefetcher, 10)
    until(lambda: any(ref.task_id == 10 for ref in media.refs))

    assert sorted(ref.task_id for ref in media.refs if ref.task_id == 7) in ([7], [])
    until(lambda: len(pool.prefetched) == 4)


def test_with_a_slow_model_only_the_opened_task_is_prefetched(
    prefetcher: Prefetcher, media: GatedMedia, pool: DiscPool
) -> None:
    pool.encode_seconds = 30.0
    opened(prefetcher)
    until(lambda: pool.prefetched)
    opened(prefetcher, 10)
    until(lambda: len(pool.prefetched) == 2)

    assert [ref.task_id for ref in media.refs] == [7, 10]


def test_an_image_that_cannot_be_read_is_left_to_the_click(
    prefetcher: Prefetcher, media: GatedMedia, pool: DiscPool
) -> None:
    media.fail = True
    opened(prefetcher)
    until(lambda: media.refs)
    media.fail = False
    opened(prefetcher, 11)

    until(lambda: pool.prefetched)


def test_predict_answers_an_opened_task_at_once_while_its_image_is_still_read(
    prefetcher: Prefetcher, media: GatedMedia, pool: DiscPool
) -> None:
    media.gate.clear()
    client = create_app(settings(), pool, media, prefetcher).test_client()
    body = payload()
    body["params"]["context"] = None

    answer = client.post("/predict", json=body)

    assert answer.json == {"results": [[]]}
    until(lambda: [ref.url for ref in media.refs] == ["/data/upload/1/a.png"])
    assert not pool.prefetched
    media.gate.set()
    until(lambda: pool.prefetched)


def test_a_batch_of_tasks_without_prompts_reads_nothing(
    prefetcher: Prefetcher, media: GatedMedia, pool: DiscPool
) -> None:
    client = create_app(settings(), pool, media, prefetcher).test_client()
    body = payload()
    body["params"]["context"] = None
    body["tasks"] = [task(number) for number in range(500)]

    assert client.post("/predict", json=body).json == {"results": [[]] * 500}
    opened(prefetcher, 77)
    until(lambda: media.refs)
    assert media.refs[0].task_id == 77


@pytest.mark.parametrize(
    ("opened_task", "config"),
    [({"id": 1}, CONFIG), ({"id": 1, "data": {"image": 5}}, CONFIG), (task(1), "<View/>"), (task(1), None)],
)
def test_whatever_a_request_holds_the_prefetcher_goes_on(
    opened_task: dict[str, Any], config: Any, prefetcher: Prefetcher, pool: DiscPool
) -> None:
    prefetcher.opened(opened_task, config, project="1", hostname=None)
    opened(prefetcher, 12)

    until(lambda: pool.prefetched)
