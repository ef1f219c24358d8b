"""Servers that answer badly, or never to the end, are left; over a socket, by a clock of the test's own."""

from __future__ import annotations

import socket

import pytest
from fake_label_studio import FakeLabelStudio
from fetch_trap import Prey
from label_studio_fakes import settings

from m2n2_backend.errors import ImageUnavailable
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/endless", "413 image file is larger than the limit of 1000000 bytes (M2N2_MAX_IMAGE_BYTES)"),
        ("/announced", "413 image file is larger than the limit of 1000000 bytes (M2N2_MAX_IMAGE_BYTES)"),
        ("/gzip", "424 image download failed: the server compresses although asked not to"),
        ("/broken", "424 image download failed"),
        ("/login/", "424 Label Studio answered with a web page"),
        ("/status/500", "424 image download failed: 500 Internal Server Error"),
        ("/status/206", "424 image download failed: 206"),
        (
            "/data/status/403",
            "424 Label Studio refused the image (403): the user of LABEL_STUDIO_API_KEY",
        ),
        ("/data/upload/1/none.png?X-Amz-Signature=secret", "424 image download failed: 404 Not Found from http://"),
    ],
)
def test_an_answer_that_is_no_image_is_explained_without_its_query(prey: Prey, path: str, refusal: str) -> None:
    answer = prey.asked_for(path)
    assert answer.startswith(refusal)
    assert "secret" not in answer


@pytest.mark.parametrize("path", ["/slow", "/slow-headers", "/hints"])
@pytest.mark.parametrize(("download_timeout", "deadline"), [(10.0, 1e7), (1e7, 10.0)])
def test_bytes_that_drip_in_do_not_extend_the_first_of_both_time_limits(
    studio: FakeLabelStudio, path: str, download_timeout: float, deadline: float
) -> None:
    limits = settings(label_studio_url=studio.url, download_timeout=download_timeout)
    media = MediaReader(limits, clock=studio.clock)
    begun = studio.clock()
    with pytest.raises(ImageUnavailable, match="timed out"):
        media.fetch(ImageRef(path), deadline=begun + deadline)
    assert 10 <= studio.clock() - begun < 1e7


def test_a_server_that_never_answers_is_left_at_the_deadline(studio: FakeLabelStudio) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        media = MediaReader(settings(label_studio_url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(ImageUnavailable, match="timed out"):
            media.fetch(ImageRef("/a.png"), deadline=studio.clock() + 0.05)


def test_no_connection_is_explained() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        media = MediaReader(settings(label_studio_url=f"http://127.0.0.1:{unused.getsockname()[1]}"))
        with pytest.raises(ImageUnavailable, match=r"download failed: .*refused"):
            media.fetch(ImageRef("/a.png"))
