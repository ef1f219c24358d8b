"""Which token goes where: Label Studio's own address sees it, and nobody else; over sockets."""

from __future__ import annotations

import contextlib
import hashlib
import threading

import pytest
from fake_label_studio import LEGACY, PERSONAL, FakeLabelStudio, png
from label_studio_fakes import reader, settings

from m2n2_backend.errors import ImageUnavailable
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader

UPLOAD = "/data/upload/1/a.png"


def test_an_uploaded_file_is_read_with_a_legacy_token(studio: FakeLabelStudio) -> None:
    image = reader(studio, LEGACY).fetch(ImageRef(UPLOAD))
    assert image.data == png()
    assert image.key == hashlib.sha256(png()).hexdigest()
    assert studio.tokens("/data") == [f"Token {LEGACY}"]


def test_an_uploaded_file_is_read_with_a_personal_access_token(studio: FakeLabelStudio) -> None:
    assert reader(studio, PERSONAL).fetch(ImageRef(UPLOAD)).data == png()
    assert studio.tokens("/data") == [f"Bearer {studio.access()}"]


def test_an_access_token_is_used_again(studio: FakeLabelStudio) -> None:
    media = reader(studio, PERSONAL)
    for _ in range(3):
        media.fetch(ImageRef(UPLOAD))
    assert studio.paths().count("/api/token/refresh/") == 1


def test_a_refused_access_token_is_renewed_once(studio: FakeLabelStudio) -> None:
    media = reader(studio, PERSONAL)
    media.fetch(ImageRef(UPLOAD))
    studio.generation = 100
    assert media.fetch(ImageRef(UPLOAD)).data == png()
    assert studio.paths().count("/api/token/refresh/") == 2


def test_an_access_token_is_renewed_before_it_ends(studio: FakeLabelStudio) -> None:
    media = MediaReader(settings(label_studio_url=studio.url, label_studio_api_key=PERSONAL), clock=studio.clock)
    refreshed = []
    for seconds in (0, 200, 290):
        studio.clock.ahead = seconds
        media.fetch(ImageRef(UPLOAD))
        refreshed.append(studio.paths().count("/api/token/refresh/"))
    assert refreshed == [1, 1, 2]


def test_threads_share_one_access_token(studio: FakeLabelStudio) -> None:
    media = reader(studio, PERSONAL)
    threads = [threading.Thread(target=media.fetch, args=(ImageRef(UPLOAD),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert studio.paths().count("/api/token/refresh/") == 1
    assert len(studio.tokens("/data")) == 8


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        (None, "set LABEL_STUDIO_API_KEY"),
        ("mistyped", "LABEL_STUDIO_API_KEY was refused: the token is wrong or legacy tokens are switched off"),
        ("mistyped.personal.token", "LABEL_STUDIO_API_KEY was refused (401): the personal access token"),
        ("with\nnewline", "LABEL_STUDIO_API_KEY is not a valid token"),
    ],
)
def test_a_missing_or_wrong_token_is_explained_without_showing_it(
    studio: FakeLabelStudio, key: str | None, cause: str
) -> None:
    with pytest.raises(ImageUnavailable) as caught:
        reader(studio, key).fetch(ImageRef(UPLOAD))
    assert cause in str(caught.value)
    assert key is None or key not in str(caught.value)


def test_the_token_never_reaches_another_host(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    media = reader(studio, LEGACY, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    media.fetch(ImageRef(f"{elsewhere.url}/open/a.png"))
    studio.bucket = elsewhere.url
    media.fetch(ImageRef("s3://bucket/a.png", task_id=7))
    assert elsewhere.tokens("/") == [None, None]
    assert studio.tokens("/tasks") == [f"Token {LEGACY}"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/projects/7/next",
        "/api/projects/7/export?exportType=JSON",
        "/data/../api/projects/7/next",
        "/data/%2e%2e/api/projects/7/next",
        "/data/%252e%252e/api/projects/7/next",
        "/data/..%5capi/projects/7/next",
        "/tasks/7/presign/../../../api/projects/7/next",
        "/projects/7/data/",
        "/away?to=/api/projects/7/next",
        "/data",
        "/database",
    ],
)
def test_the_token_is_sent_to_files_alone_also_after_a_redirect(studio: FakeLabelStudio, path: str) -> None:
    with pytest.raises(ImageUnavailable, match=r"not the path of one of its files|404"):
        reader(studio, LEGACY).fetch(ImageRef(path))
    assert studio.requests
    assert set(studio.tokens("/")) == {None}


@pytest.mark.parametrize(
    "path", ["/data/a.png", "/data/local-files/?d=a.png", "/tasks/7/resolve/?fileuri=czM6", "/projects/7/presign/"]
)
def test_label_studios_files_are_asked_for_with_the_token(studio: FakeLabelStudio, path: str) -> None:
    studio.bucket = studio.url
    with contextlib.suppress(ImageUnavailable):  # not every one is there
        reader(studio, LEGACY).fetch(ImageRef(path))
    assert studio.requests[0][1]["Authorization"] == f"Token {LEGACY}"


@pytest.mark.parametrize(
    ("path", "is_sent"), [("/studio/data/a.png", True), ("/data/a.png", True), ("/studio/api/x", False)]
)
def test_a_label_studio_below_a_path_gets_the_token_there(studio: FakeLabelStudio, path: str, is_sent: bool) -> None:
    media = MediaReader(settings(label_studio_url=f"{studio.url}/studio", label_studio_api_key=LEGACY))
    with pytest.raises(ImageUnavailable):
        media.fetch(ImageRef(path))
    assert studio.tokens("/studio") == [f"Token {LEGACY}" if is_sent else None]


def test_the_token_returns_after_a_redirect_back(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    media = reader(studio, LEGACY, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    assert media.fetch(ImageRef(f"{elsewhere.url}/away?to={studio.url}{UPLOAD}")).data == png()
    assert elsewhere.tokens("/") == [None]


def test_the_hostname_of_setup_is_a_fallback_that_never_sees_the_token(studio: FakeLabelStudio) -> None:
    media = reader(None, LEGACY, allowed_hosts="127.0.0.1")
    with pytest.raises(ImageUnavailable, match="set LABEL_STUDIO_URL"):
        media.fetch(ImageRef(UPLOAD, hostname=studio.url))
    assert studio.tokens("/data") == [None]
