"""A warm click downloads nothing, and a changed image is noticed; over real sockets."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_label_studio import HEIGHT, LEGACY, WIDTH, FakeLabelStudio, png
from label_studio_fakes import settings

from m2n2_backend.errors import ImageUnavailable
from m2n2_backend.labelstudio.images.memory import RememberingMedia
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader

UPLOAD = ImageRef("/data/upload/1/a.png")


def media(studio: FakeLabelStudio, fresh_seconds: float = 300.0) -> RememberingMedia:
    reader = MediaReader(settings(label_studio_url=studio.url, label_studio_api_key=LEGACY))
    return RememberingMedia(reader, fresh_seconds=fresh_seconds)


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


def test_a_failure_is_not_remembered(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    file = studio.files.pop("a.png")
    with pytest.raises(ImageUnavailable, match="404"):
        remembering.fetch(UPLOAD)
    studio.files["a.png"] = file

    assert remembering.fetch(UPLOAD).data == file


def test_data_urls_are_read_each_time_from_the_task(studio: FakeLabelStudio) -> None:
    remembering = media(studio)
    ref = ImageRef("data:image/png;base64," + base64.b64encode(png()).decode())

    assert remembering.fetch(ref, data_needed=False).data == png()
    assert remembering.downloads == 0
