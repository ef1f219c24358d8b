"""A warm click downloads nothing, and a changed image is noticed; over real sockets."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fake_label_studio import HEIGHT, LEGACY, WIDTH, FakeLabelStudio, png
from label_studio_fakes import data_url, settings
from waiting import RunningClock, until

from m2n2_backend.errors import ImageTooLarge, ImageUnavailable, InvalidImage, NotReady
from m2n2_backend.labelstudio.images.cached import FAILURE_SECONDS, CachedImages
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader

UPLOAD = ImageRef("/data/upload/1/a.png")


def media(
    studio: FakeLabelStudio,
    fresh_seconds: float = 300.0,
    *,
    at_once: int = 40,
    clock: RunningClock | None = None,
    **more: Any,
) -> CachedImages:
    reader = MediaReader(settings(label_studio_url=studio.url, label_studio_api_key=LEGACY, **more))
    return CachedImages(reader, fresh_seconds=fresh_seconds, at_once=at_once, clock=clock or time.monotonic)


def test_the_second_click_downloads_nothing_and_knows_hash_and_size(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    first = remembering.fetch(UPLOAD, data_needed=False)
    again = remembering.fetch(UPLOAD, data_needed=False)

    assert first.data == png()
    assert (again.key, again.size, again.data) == (first.key, (WIDTH, HEIGHT), None)
    assert len(studio.paths()) == 1


def test_whoever_needs_the_file_again_gets_it_without_a_second_download(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    remembering.fetch(UPLOAD)

    assert remembering.fetch(UPLOAD).data == png()
    assert len(studio.paths()) == 1


def test_after_its_time_an_unchanged_image_is_only_asked_about(studio: FakeLabelStudio) -> None:
    remembering = media(studio, fresh_seconds=0.0)
    ref = ImageRef(f"{studio.url}/versioned/a.png")
    first = remembering.fetch(ref, data_needed=False)
    again = remembering.fetch(ref, data_needed=False)

    assert (again.key, again.data) == (first.key, None)
    assert (remembering.downloads, remembering.revalidations) == (1, 1)


def test_after_its_time_a_changed_image_is_another_image(studio: FakeLabelStudio) -> None:
    remembering = media(studio, fresh_seconds=0.0)
    ref = ImageRef(f"{studio.url}/versioned/a.png")
    first = remembering.fetch(ref, data_needed=False)
    studio.files["a.png"] = png(20, 10)
    again = remembering.fetch(ref, data_needed=False)

    assert again.key != first.key
    assert again.size == (20, 10)


def test_a_server_without_versions_is_downloaded_from_again_after_its_time(studio: FakeLabelStudio) -> None:
    remembering = media(studio, fresh_seconds=0.0)

    assert remembering.fetch(UPLOAD, data_needed=False).key == remembering.fetch(UPLOAD, data_needed=False).key
    assert remembering.downloads == 2


def test_twenty_requests_for_one_address_are_one_download(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    start = threading.Barrier(20)

    def fetch(_: int) -> str:
        start.wait()
        return remembering.fetch(UPLOAD, data_needed=False).key

    with ThreadPoolExecutor(20) as threads:
        keys = set(threads.map(fetch, range(20)))

    assert len(keys) == 1
    assert len(studio.paths()) == 1


def test_a_failure_answers_for_a_few_seconds_and_no_longer(studio: FakeLabelStudio) -> None:
    clock = RunningClock()
    remembering = media(studio, clock=clock)
    file = studio.files.pop("a.png")
    for _ in range(3):
        with pytest.raises(ImageUnavailable, match="404"):
            remembering.fetch(UPLOAD)
    assert len(studio.paths()) == 1
    studio.files["a.png"] = file
    clock.ahead = FAILURE_SECONDS + 1

    assert remembering.fetch(UPLOAD).data == file


def test_clicks_on_one_hanging_address_share_one_download_and_its_outcome(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    with ThreadPoolExecutor(5) as threads:
        clicks = [threads.submit(remembering.fetch, ImageRef("/held/a.png")) for _ in range(5)]
        until(lambda: remembering._places.taken == 5 and studio.requests)
        studio.held.set()
        errors = [click.exception() for click in clicks]

    assert {type(error) for error in errors} == {ImageUnavailable}
    assert len({str(error) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 5
    assert studio.paths() == ["/held/a.png"]


def test_a_click_that_waits_for_anothers_download_gives_up_at_its_own_deadline(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(remembering.fetch, ImageRef("/held/a.png"))
        until(lambda: studio.requests)
        with pytest.raises(ImageUnavailable, match="timed out"):
            remembering.fetch(ImageRef("/held/a.png"), deadline=time.monotonic())
        studio.held.set()
        assert isinstance(first.exception(), ImageUnavailable)


def test_a_host_that_hangs_takes_half_of_the_places_and_known_images_need_none(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio
) -> None:
    remembering = media(studio, at_once=8, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    remembering.fetch(UPLOAD)
    with ThreadPoolExecutor(8) as threads:
        hanging = [threads.submit(remembering.fetch, ImageRef(f"{elsewhere.url}/held/{n}.png")) for n in range(4)]
        until(lambda: len(elsewhere.requests) == 4)
        with pytest.raises(NotReady, match="4 clicks wait for images from this host"):
            remembering.fetch(ImageRef(f"{elsewhere.url}/open/a.png"))
        assert remembering.fetch(ImageRef("/open/a.png")).data == png()
        hanging += [threads.submit(remembering.fetch, ImageRef(f"/held/{n}.png")) for n in range(4)]
        until(lambda: remembering._places.taken == 8)
        with pytest.raises(NotReady, match="8 clicks wait for images"):
            remembering.fetch(ImageRef("/data/upload/1/other.png"))
        assert remembering.fetch(UPLOAD, data_needed=False).size == (WIDTH, HEIGHT)
        elsewhere.held.set()
        studio.held.set()
        assert all(isinstance(one.exception(), ImageUnavailable) for one in hanging)
    assert remembering.fetch(ImageRef(f"{elsewhere.url}/open/a.png")).data == png()


def test_slow_images_of_two_hosts_leave_places_for_label_studios_own(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio
) -> None:
    names = [f"{name}:{elsewhere.port}" for name in ("127.0.0.1", "localhost")]
    remembering = media(studio, at_once=8, allowed_hosts=",".join(names))
    with ThreadPoolExecutor(16) as threads:
        slow = [
            threads.submit(remembering.fetch, ImageRef(f"http://{name}/held/{number}.png", project=f"{number}"))
            for number in range(8)
            for name in names
        ]
        until(lambda: len(elsewhere.requests) + sum(one.done() for one in slow) == 16)
        assert remembering.fetch(UPLOAD).data == png()
        # By its full address, too.
        assert remembering.fetch(ImageRef(f"{studio.url}/open/a.png")).data == png()
        elsewhere.held.set()
    assert sum(isinstance(one.exception(), NotReady) for one in slow) == 10


def test_one_project_takes_half_of_the_places_for_downloads(studio: FakeLabelStudio) -> None:
    remembering = media(studio, at_once=8)
    with ThreadPoolExecutor(4) as threads:
        slow = [
            threads.submit(remembering.fetch, ImageRef(f"/held/{number}.png", project="1")) for number in range(4)
        ]
        until(lambda: len(studio.requests) == 4)
        with pytest.raises(NotReady, match="4 clicks wait for images in this project"):
            remembering.fetch(ImageRef("/open/a.png", project="1"))
        assert remembering.fetch(ImageRef("/open/a.png", project="2")).data == png()
        studio.held.set()
        assert all(isinstance(one.exception(), ImageUnavailable) for one in slow)


def test_a_known_image_is_clicked_although_its_time_is_over_and_all_places_of_its_host_are_taken(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio
) -> None:
    clock = RunningClock()
    remembering = media(studio, at_once=2, clock=clock, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    ref = ImageRef(f"{elsewhere.url}/versioned/a.png")
    known = remembering.fetch(ref)
    clock.ahead = 1000.0
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(remembering.fetch, ImageRef(f"{elsewhere.url}/held/0.png"))
        until(lambda: len(elsewhere.requests) == 2)
        assert remembering.fetch(ref, data_needed=False).key == known.key
        with pytest.raises(NotReady):
            remembering.fetch(ref, data_needed=True)
        elsewhere.held.set()
        assert isinstance(slow.exception(), ImageUnavailable)
    # As soon as there is a place, the server is asked whether it changed.
    elsewhere.files["a.png"] = png(20, 10)
    assert remembering.fetch(ref, data_needed=False).key != known.key


def test_forty_downloads_at_once_hold_no_more_bytes_than_eight_of_the_largest_images(studio: FakeLabelStudio) -> None:
    size = 2 * 1024**2
    remembering = media(studio, max_image_bytes=size)
    file = png() + bytes(size - len(png()) - 1000)
    studio.files = {f"{number}.png": file for number in range(40)}
    tracemalloc.start()
    try:
        with ThreadPoolExecutor(40) as threads:
            begun = [threads.submit(remembering.fetch, ImageRef(f"/almost/{number}.png")) for number in range(40)]
            held = remembering._reader._downloader._bytes
            until(lambda: held.taken >= sum(not one.done() for one in begun) * (len(file) - 1))
            _, most = tracemalloc.get_traced_memory()
            studio.held.set()
            errors = [one.exception() for one in begun]
    finally:
        tracemalloc.stop()

    assert most <= 1.3 * 8 * size
    assert {type(error) for error in errors} <= {type(None), NotReady, ImageUnavailable}
    # To be refused for lack of room is no failure of the address.
    refused = next(number for number, error in enumerate(errors) if isinstance(error, NotReady))
    assert remembering.fetch(ImageRef(f"/almost/{refused}.png")).data == file


@pytest.mark.parametrize(
    ("path", "error"), [("/file/none", InvalidImage), ("/file/page", ImageUnavailable), ("/endless", ImageTooLarge)]
)
def test_a_download_that_came_to_nothing_leaves_nothing_in_memory(
    studio: FakeLabelStudio, path: str, error: type[Exception]
) -> None:
    size = 2**23
    studio.files["none"] = studio.files["page"] = bytes(size)
    studio.kinds["page"] = "text/html"
    remembering = media(studio, max_image_bytes=size)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        with pytest.raises(error):
            remembering.fetch(ImageRef(path))
        left, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()

    assert left < size / 8
    assert most > size / 2


def test_a_file_in_a_bucket_is_remembered_for_the_task_that_label_studio_allowed_it(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    studio.bucket = studio.url
    allowed, denied = (ImageRef("s3://bucket/secret.png", task_id=task) for task in (1, 2))
    studio.denied_tasks = {2}
    assert remembering.fetch(allowed).data == png()
    with pytest.raises(ImageUnavailable, match="403"):
        remembering.fetch(denied)
    assert remembering.fetch(allowed, data_needed=False).data is None


@pytest.mark.parametrize("etag", ['"\u00e4\u00ff"', '"' + "x" * 10_000 + '"'])
def test_whatever_a_server_calls_a_version_it_is_asked_about(studio: FakeLabelStudio, etag: str) -> None:
    remembering = media(studio, fresh_seconds=0.0)
    studio.etag = etag
    ref = ImageRef("/versioned/a.png")
    first = remembering.fetch(ref, data_needed=False)

    assert remembering.fetch(ref, data_needed=False).key == first.key
    # A very long one is not kept.
    assert remembering.revalidations == (1 if len(etag) < 100 else 0)


def test_what_is_remembered_of_a_long_address_is_short(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    remembering.fetch(ImageRef("/open/a.png?" + "x" * 50_000))
    assert all(len(key) == 32 for key in remembering._known)


def test_data_urls_are_read_each_time_from_the_task(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    ref = ImageRef(data_url(png()))

    assert remembering.fetch(ref, data_needed=False).data == png()
    assert remembering.downloads == 0
