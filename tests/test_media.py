import base64
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fake_label_studio import LEGACY, PERSONAL, FakeLabelStudio, png
from label_studio_fakes import settings

from m2n2_backend.errors import ImageNotAllowed, ImageTooLarge, ImageUnavailable, InvalidImage, M2N2Error
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader

UPLOAD = "/data/upload/1/a.png"


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    yield fake
    fake.close()


@pytest.fixture
def elsewhere() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    yield fake
    fake.close()


def reader(studio: FakeLabelStudio | None = None, key: str | None = None, **overrides: Any) -> MediaReader:
    url = studio.url if studio else None
    return MediaReader(settings(label_studio_url=url, label_studio_api_key=key, **overrides))


def test_an_uploaded_file_is_read_with_a_legacy_token(studio: FakeLabelStudio) -> None:
    image = reader(studio, LEGACY).read(UPLOAD)
    assert image.data == png()
    assert image.key == hashlib.sha256(png()).hexdigest()
    assert studio.tokens("/data") == [f"Token {LEGACY}"]


def test_an_uploaded_file_is_read_with_a_personal_access_token(studio: FakeLabelStudio) -> None:
    assert reader(studio, PERSONAL).read(UPLOAD).data == png()
    assert studio.tokens("/data") == ["Bearer access.1.token"]


def test_an_access_token_is_used_again(studio: FakeLabelStudio) -> None:
    media = reader(studio, PERSONAL)
    for _ in range(3):
        media.read(UPLOAD)
    assert studio.paths().count("/api/token/refresh/") == 1


def test_a_refused_access_token_is_renewed_once(studio: FakeLabelStudio) -> None:
    media = reader(studio, PERSONAL)
    media.read(UPLOAD)
    studio.generation = 100
    assert media.read(UPLOAD).data == png()
    assert studio.paths().count("/api/token/refresh/") == 2


def test_threads_share_one_access_token(studio: FakeLabelStudio) -> None:
    media = reader(studio, PERSONAL)
    threads = [threading.Thread(target=media.read, args=(UPLOAD,)) for _ in range(8)]
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
        (
            "mistyped",
            "LABEL_STUDIO_API_KEY was refused: the token is wrong or legacy tokens are switched off",
        ),
        ("mistyped.personal.token", "LABEL_STUDIO_API_KEY was refused (401): the personal access token"),
        ("with\nnewline", "LABEL_STUDIO_API_KEY is no token"),
    ],
)
def test_a_missing_or_wrong_token_is_explained_without_showing_it(
    studio: FakeLabelStudio, key: str | None, cause: str
) -> None:
    with pytest.raises(ImageUnavailable) as caught:
        reader(studio, key).read(UPLOAD)
    assert cause in str(caught.value)
    assert key is None or key not in str(caught.value)


def test_a_forbidden_file_is_explained(studio: FakeLabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match="user of LABEL_STUDIO_API_KEY may not read"):
        reader(studio, LEGACY).read("/status/403")


def test_the_login_page_is_no_image(studio: FakeLabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match=r"login.*LABEL_STUDIO_API_KEY"):
        reader(studio, LEGACY).read("/login/")


def test_a_web_page_elsewhere_is_no_image(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match="web page"):
        reader(studio, LEGACY, allowed_hosts="127.0.0.1").read(f"{elsewhere.url}/login/")


def test_the_token_never_reaches_another_host(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    media = reader(studio, LEGACY, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    media.read(f"{elsewhere.url}/open/a.png")
    media.read(f"{studio.url}/away?to={elsewhere.url}/open/a.png")
    assert elsewhere.tokens("/") == [None, None]
    assert studio.tokens("/away") == [f"Token {LEGACY}"]


def test_the_token_returns_after_a_redirect_back(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    media = reader(studio, LEGACY, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    assert media.read(f"{elsewhere.url}/away?to={studio.url}{UPLOAD}").data == png()
    assert elsewhere.tokens("/") == [None]


def test_another_port_of_label_studios_machine_is_refused(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio
) -> None:
    with pytest.raises(ImageNotAllowed, match="M2N2_ALLOWED_HOSTS"):
        reader(studio, LEGACY).read(f"{elsewhere.url}/open/a.png")
    assert elsewhere.requests == []


def test_a_redirect_to_a_private_address_is_refused(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    with pytest.raises(ImageNotAllowed):
        reader(studio, LEGACY).read(f"/away?to={elsewhere.url}/open/a.png")
    assert elsewhere.requests == []


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "gopher://127.0.0.1/x"])
def test_a_redirect_away_from_http_is_refused(studio: FakeLabelStudio, where: str) -> None:
    with pytest.raises(ImageNotAllowed):
        reader(studio).read(f"/away?to={where}")


def test_five_redirects_are_followed_and_no_more(studio: FakeLabelStudio) -> None:
    media = reader(studio)
    assert media.read("/hops/4").data == png()
    with pytest.raises(ImageUnavailable, match="more than 5 redirects"):
        media.read("/hops/5")


def test_a_bucket_is_read_through_label_studio_without_the_token_at_the_bucket(
    studio: FakeLabelStudio,
) -> None:
    uri = "s3://bucket/ä?.png"
    assert reader(studio, LEGACY).read(uri, task_id=7).data == png()
    asked = studio.paths()[0]
    assert asked.startswith("/tasks/7/presign/?fileuri=")
    assert base64.urlsafe_b64decode(asked.partition("=")[2].replace("%3D", "=")).decode() == uri


@pytest.mark.parametrize("task", [None, "../../api", "7/x"])
def test_a_bucket_needs_the_tasks_id(studio: FakeLabelStudio, task: str | None) -> None:
    with pytest.raises(ImageUnavailable, match="task's id"):
        reader(studio, LEGACY).read("gs://bucket/a.png", task_id=task)
    assert studio.requests == []


def test_a_missing_file_is_named_without_its_query(studio: FakeLabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match="404 Not Found") as caught:
        reader(studio, LEGACY).read("/data/upload/1/b.png?X-Amz-Signature=secret")
    assert "/data/upload/1/b.png" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_relative_address_needs_label_studios_url() -> None:
    with pytest.raises(ImageUnavailable, match="LABEL_STUDIO_URL"):
        reader().read(UPLOAD)


def test_the_hostname_of_setup_is_a_fallback_that_never_sees_the_token(studio: FakeLabelStudio) -> None:
    media = reader(None, LEGACY, allowed_hosts="127.0.0.1")
    with pytest.raises(ImageUnavailable, match="set LABEL_STUDIO_URL"):
        media.read(UPLOAD, hostname_fallback=studio.url)
    assert studio.tokens("/data") == [None]


def test_the_hostname_of_setup_is_not_exempt_from_the_address_policy(studio: FakeLabelStudio) -> None:
    with pytest.raises(ImageNotAllowed):
        reader(None, LEGACY).read(UPLOAD, hostname_fallback=studio.url)
    assert studio.requests == []


def test_the_setting_wins_over_the_hostname_of_setup(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    reader(studio, LEGACY).read(UPLOAD, hostname_fallback=elsewhere.url)
    assert elsewhere.requests == []


@pytest.mark.parametrize("path", ["/studio/open/a.png", "/open/a.png"])
def test_a_label_studio_below_a_path_is_asked_there_once(studio: FakeLabelStudio, path: str) -> None:
    media = MediaReader(settings(label_studio_url=f"{studio.url}/studio"))
    with pytest.raises(ImageUnavailable, match="404"):
        media.read(path)
    assert studio.paths() == ["/studio/open/a.png"]


@pytest.mark.parametrize(
    ("path", "error", "cause"),
    [
        ("/announced", ImageTooLarge, "M2N2_MAX_IMAGE_BYTES"),
        ("/endless", ImageTooLarge, "M2N2_MAX_IMAGE_BYTES"),
        ("/gzip", ImageUnavailable, "compresses"),
        ("/broken", ImageUnavailable, "download failed"),
        ("/status/500", ImageUnavailable, "500 Internal Server Error"),
        ("/status/206", ImageUnavailable, "206"),
    ],
)
def test_a_server_that_misbehaves_is_left_at_once(
    studio: FakeLabelStudio, path: str, error: type[M2N2Error], cause: str
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=cause):
        reader(studio, max_image_bytes=200_000).read(path)
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("path", ["/slow", "/slow-headers"])
def test_bytes_that_drip_in_do_not_extend_the_time_limit(studio: FakeLabelStudio, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(ImageUnavailable, match="timed out"):
        reader(studio, download_timeout=0.4).read(path)
    assert time.monotonic() - started < 1.5


def test_the_requests_deadline_ends_a_download_too(studio: FakeLabelStudio) -> None:
    started = time.monotonic()
    with pytest.raises(ImageUnavailable, match="timed out"):
        reader(studio).fetch(ImageRef("/slow"), deadline=time.monotonic() + 0.3)
    assert time.monotonic() - started < 1.5


def test_no_connection_is_explained(studio: FakeLabelStudio) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        media = MediaReader(settings(label_studio_url=f"http://127.0.0.1:{unused.getsockname()[1]}"))
        with pytest.raises(ImageUnavailable, match="download failed"):
            media.read(UPLOAD)


def test_the_connection_is_made_to_the_address_that_was_checked(
    studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    asked = []

    def rebinding(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host == "rebind.test":
            asked.append(host)
            host = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    media = reader(None, allowed_hosts="rebind.test")
    assert media.read(f"http://rebind.test:{studio.port}/open/a.png").data == png()
    assert asked == ["rebind.test"]
    assert studio.requests[0][1]["Host"] == f"rebind.test:{studio.port}"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "ftp://u:secret@127.0.0.1/a",
        "javascript:alert(1)",
        "a.png",
        "images/a.png",
        "",
        "C:\\a.png",
        "//127.0.0.1/a.png",
        "http:///a.png",
        "http://",
        "https:a.png",
        "http://user:secret@127.0.0.1/a.png",
        "http://127.0.0.1:99999/a.png",
        "http://[::1/a.png",
        "http://127.0.0.1/\x00",
        "http://\ud800/",
        "s3://\ud800",
        "unix:/run/docker.sock",
    ],
)
def test_an_address_of_another_kind_is_refused_without_showing_secrets(studio: FakeLabelStudio, url: str) -> None:
    with pytest.raises((ImageNotAllowed, InvalidImage)) as caught:
        reader(studio, LEGACY, allowed_hosts="127.0.0.1").read(url, task_id=1)
    assert "secret" not in str(caught.value)
    assert studio.requests == []


def test_every_refusal_is_one_of_our_errors(studio: FakeLabelStudio) -> None:
    media = reader(studio, LEGACY)
    for url in (
        "http://\u2028/",
        "http://a..b/",
        "http://" + "a" * 70_000,
        "http://xn--/",
        "http://127.0.0.1:/",
    ):
        with pytest.raises(M2N2Error):
            media.read(url)
