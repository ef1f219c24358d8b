"""Opening a task encodes its image in the background, and never gets in anybody's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

import pytest
from label_studio_fakes import CONFIG, CountingMedia, DiscPool, payload, settings
from waiting import RunningClock

from m2n2_backend.errors import ImageUnavailable
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.images.reader import ImageRef
from m2n2_backend.labelstudio.prefetch import MAX_WAITING, MAX_WAITING_BYTES, REPEAT_SECONDS, Prefetcher
from m2n2_backend.server.app import create_app
from m2n2_backend.worker.interface import SourceImage


class GatedMedia(CountingMedia):
    """Reads when it is let; tells of each question."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Queue[tuple[ImageRef, float]] = Queue()
        self.gate = threading.Event()
        self.gate.set()
        self.fail = False

    def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
        self.asked.put((ref, deadline))
        assert self.gate.wait(60)
        if self.fail:
            raise ImageUnavailable("gone")
        return super().fetch(ref, deadline=deadline, data_needed=data_needed)

    @property
    def tasks(self) -> list[Any]:
        """Ids of the tasks whose images were read."""
        return [ref.task_id for ref in self.refs]


class TellingPool(DiscPool):
    """Tells of each image that it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.handed: Queue[SourceImage] = Queue()
        self.takes = True

    def prefetch(self, image: SourceImage) -> bool:
        takes = self.takes
        self.handed.put(image)
        return super().prefetch(image) and takes

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            self.handed.get(timeout=60)


USUAL = parse_label_config(CONFIG)


def task(number: int) -> dict[str, Any]:
    return {"id": number, "data": {"image": f"/data/upload/{number}.png"}}


@pytest.fixture
def media() -> GatedMedia:
    return GatedMedia()


@pytest.fixture
def pool() -> TellingPool:
    return TellingPool()


@pytest.fixture
def clock() -> RunningClock:
    return RunningClock()


@pytest.fixture
def prefetcher(pool: TellingPool, media: GatedMedia, clock: RunningClock) -> Iterator[Prefetcher]:
    prefetcher = Prefetcher(pool, media, timeout=5, upcoming=lambda project, opened: [task(8), task(9)], clock=clock)
    yield prefetcher
    media.gate.set()
    prefetcher.close()


def opened(prefetcher: Prefetcher, *numbers: int, project: str = "1") -> None:
    for number in numbers:
        prefetcher.opened([ImageRef(f"/data/upload/{number}.png", number)], USUAL, project=project)


def opened_while_the_first_is_read(prefetcher: Prefetcher, media: GatedMedia, *numbers: int, project: str) -> None:
    first, *others = numbers
    media.gate.clear()
    opened(prefetcher, first, project=project)
    while media.asked.get(timeout=60)[0].task_id != first:
        pass
    opened(prefetcher, *others, project=project)
    media.gate.set()


def test_the_opened_task_and_the_next_ones_are_handed_to_the_model_in_this_order(
    prefetcher: Prefetcher, pool: TellingPool, media: GatedMedia
) -> None:
    opened(prefetcher, 7)
    pool.wait(3)

    assert [ref.url for ref in media.refs] == [f"/data/upload/{number}.png" for number in (7, 8, 9)]


def test_a_task_opened_twice_at_once_is_read_once(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    opened_while_the_first_is_read(prefetcher, media, 7, 7, 10, project="1")
    pool.wait(4)

    # The next tasks come last, when nothing waits any more, the second opening of 7 included.
    assert media.tasks == [7, 10, 8, 9]


def test_after_a_while_a_task_that_is_opened_again_is_read_again(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool, clock: RunningClock
) -> None:
    for ahead, is_read in ((0, True), (int(REPEAT_SECONDS) - 60, False), (int(REPEAT_SECONDS) + 1, True)):
        clock.ahead = ahead
        # The newest goes first: when the one before it was read, 7 was decided about.
        opened_while_the_first_is_read(prefetcher, media, 1000 + ahead, 2000 + ahead, 7, project="")
        pool.wait(2 + is_read)
        assert (media.tasks[-2] == 7) == is_read


def test_the_newest_task_goes_first_and_the_oldest_of_too_many_are_forgotten(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    many = list(range(100, 110 + MAX_WAITING))
    opened_while_the_first_is_read(prefetcher, media, 7, *many, project="")
    pool.wait(1 + MAX_WAITING)

    assert media.tasks == [7, *reversed(many[10:])]


def test_an_image_has_as_long_as_a_download_may_take(
    prefetcher: Prefetcher, media: GatedMedia, clock: RunningClock
) -> None:
    before = clock()
    opened(prefetcher, 7)
    _, deadline = media.asked.get(timeout=60)

    assert before + 5 <= deadline <= clock() + 5


def test_with_a_slow_model_only_the_opened_task_is_prefetched(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    pool.encode_seconds = 30.0
    opened(prefetcher, 7)
    pool.wait()
    opened(prefetcher, 10)
    pool.wait()

    assert media.tasks == [7, 10]


def test_an_image_that_cannot_be_read_is_left_to_the_click(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    media.fail = True
    opened(prefetcher, 7, project="")
    assert media.asked.get(timeout=60)[0].task_id == 7
    opened(prefetcher, 11, project="")
    assert media.asked.get(timeout=60)[0].task_id == 11
    media.fail = False
    opened(prefetcher, 12, project="")
    pool.wait()

    assert media.tasks == [12]


def test_predict_answers_an_opened_task_at_once_while_its_image_is_still_read(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    media.gate.clear()
    client = create_app(settings(), pool, media, prefetcher).test_client()
    body = payload()
    body["params"]["context"] = None

    answer = client.post("/predict", json=body)

    assert answer.json == {"results": [[]]}
    assert media.asked.get(timeout=60)[0].url == "/data/upload/1/a.png"
    assert not pool.prefetched
    media.gate.set()
    pool.wait()


def test_a_batch_of_tasks_without_prompts_reads_nothing(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    client = create_app(settings(), pool, media, prefetcher).test_client()
    body = payload()
    body["params"]["context"] = None
    body["tasks"] = [task(number) for number in range(500)]

    assert client.post("/predict", json=body).json == {"results": [[]] * 500}
    opened(prefetcher, 77)
    assert media.asked.get(timeout=60)[0].task_id == 77


@pytest.mark.parametrize(
    ("data", "config"), [({}, CONFIG), ({"image": 5}, CONFIG), (None, CONFIG), ({"image": "/a.png"}, "<View/>")]
)
def test_a_task_whose_image_cannot_be_told_is_answered_and_not_prefetched(
    data: Any, config: str, prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    client = create_app(settings(), pool, media, prefetcher).test_client()
    body = {"tasks": [{"id": 1, "data": data}], "label_config": config}

    assert client.post("/predict", json=body).json == {"results": [[]]}
    opened(prefetcher, 12, project="")
    pool.wait()
    assert media.tasks == [12]


def test_an_image_that_could_not_be_read_or_was_not_taken_is_tried_again_at_once(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    media.fail = True
    opened(prefetcher, 7, project="")
    assert media.asked.get(timeout=20)[0].task_id == 7
    media.fail = False
    pool.takes = False
    opened(prefetcher, 7, project="")
    pool.wait()
    pool.takes = True
    opened(prefetcher, 7, project="")
    pool.wait()

    assert media.tasks == [7, 7]


def test_whole_images_in_the_addresses_are_not_kept(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    media.gate.clear()
    opened(prefetcher, 1, project="")
    assert media.asked.get(timeout=20)[0].task_id == 1
    for number in range(8):
        url = f"data:image/png;base64,{number}{'A' * (MAX_WAITING_BYTES // 4)}"
        prefetcher.opened([ImageRef(url, number)], USUAL, project="")
    assert sum(one.nbytes for one in prefetcher._waiting) <= MAX_WAITING_BYTES
    media.gate.set()
    pool.wait(1 + 3)

    assert all(len(key) == 32 for key in prefetcher._seen)
    assert not prefetcher._waiting


def test_an_image_that_cannot_be_read_is_in_no_other_images_way(
    prefetcher: Prefetcher, media: GatedMedia, pool: TellingPool
) -> None:
    class OneFails(GatedMedia):
        def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
            if ref.url == "/broken.png":
                raise ImageUnavailable("404")
            return super().fetch(ref, deadline=deadline, data_needed=data_needed)

    prefetcher._media = OneFails()
    prefetcher.opened([ImageRef("/broken.png", 7), ImageRef("/data/upload/7.png", 7)], USUAL, project="1")
    pool.wait(3)
    assert len(pool.prefetched) == 3


class SlowElsewhere(GatedMedia):
    """Other hosts than Label Studio hang until the gate opens."""

    def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
        if not self.host(ref):
            return CountingMedia.fetch(self, ref, deadline=deadline, data_needed=data_needed)
        return super().fetch(ref, deadline=deadline, data_needed=data_needed)


@pytest.fixture
def slow() -> Iterator[SlowElsewhere]:
    media = SlowElsewhere()
    media.gate.clear()
    yield media
    media.gate.set()


def open_elsewhere(prefetcher: Prefetcher, number: int, host: str) -> None:
    prefetcher.opened([ImageRef(f"http://{host}/{number}.png", number)], USUAL, project=f"{number}")


def test_slow_hosts_hold_up_no_image_of_label_studio(pool: TellingPool, slow: SlowElsewhere) -> None:
    prefetcher = Prefetcher(pool, slow, timeout=5)
    for number in range(10):
        open_elsewhere(prefetcher, number, f"{number}.slow.example")
    prefetcher.opened([ImageRef("/data/upload/70.png", 70)], USUAL, project="70")
    pool.wait()

    assert slow.tasks == [70]
    assert slow.asked.qsize() <= 2
    slow.gate.set()
    pool.wait(10)
    prefetcher.close()


@pytest.mark.parametrize(("host", "project"), [("slow.example", "{}"), ("{}.slow.example", "1")])
def test_one_slow_host_or_project_holds_one_thread(
    pool: TellingPool, slow: SlowElsewhere, host: str, project: str
) -> None:
    prefetcher = Prefetcher(pool, slow, timeout=5)
    for number in range(5):
        ref = ImageRef(f"http://{host.format(number)}/a.png?{number}", number)
        prefetcher.opened([ref], USUAL, project=project.format(number))
    assert slow.asked.get(timeout=60)[0].task_id < 5
    open_elsewhere(prefetcher, 50, "other.example")
    assert slow.asked.get(timeout=60)[0].task_id == 50

    slow.gate.set()
    pool.wait(6)
    prefetcher.close()


def test_the_next_tasks_of_a_project_are_read_though_their_host_is_slow_in_no_others_way(
    pool: TellingPool, slow: SlowElsewhere
) -> None:
    def upcoming(project: str, opened: object) -> list[dict[str, Any]]:
        return [{"id": 100, "data": {"image": f"http://{project}.slow.example/a.png"}}] if project != "70" else []

    prefetcher = Prefetcher(pool, slow, timeout=5, upcoming=upcoming)
    for number in range(5):
        prefetcher.opened([ImageRef(f"/data/upload/{number}.png", number)], USUAL, project=f"{number}")
    pool.wait(5)
    prefetcher.opened([ImageRef("/data/upload/70.png", 70)], USUAL, project="70")
    pool.wait()

    assert slow.tasks[-1] == 70
    slow.gate.set()
    pool.wait(5)
    prefetcher.close()
