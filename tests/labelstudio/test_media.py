"""What an image's address means: a path of Label Studio, a bucket, another host."""

from __future__ import annotations

import base64

import pytest
from fake_label_studio import LEGACY, FakeLabelStudio, png
from label_studio_fakes import reader, settings

from m2n2_backend.errors import ImageNotAllowed, ImageUnavailable
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader

UPLOAD = "/data/upload/1/a.png"


def test_a_web_page_elsewhere_is_no_image(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match="web page"):
        reader(studio, LEGACY, allowed_hosts="127.0.0.1").fetch(ImageRef(f"{elsewhere.url}/login/"))


def test_another_port_of_label_studios_machine_is_refused(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio
) -> None:
    with pytest.raises(ImageNotAllowed, match="M2N2_ALLOWED_HOSTS"):
        reader(studio, LEGACY).fetch(ImageRef(f"{elsewhere.url}/open/a.png"))
    assert elsewhere.requests == []


def test_a_bucket_is_read_through_label_studio_without_the_token_at_the_bucket(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio
) -> None:
    uri, studio.bucket = "s3://bucket/ä?.png", elsewhere.url
    media = reader(studio, LEGACY, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    assert media.fetch(ImageRef(uri, task_id=7)).data == png()
    ((asked, headers),) = studio.requests
    assert headers["Authorization"] == f"Token {LEGACY}"
    assert asked.startswith("/tasks/7/presign/?fileuri=")
    assert base64.urlsafe_b64decode(asked.partition("=")[2].replace("%3D", "=")).decode() == uri
    assert elsewhere.tokens("/open/a.png") == [None]


@pytest.mark.parametrize("task", [None, "../../api", "7/x"])
def test_a_bucket_needs_the_tasks_id(studio: FakeLabelStudio, task: str | None) -> None:
    with pytest.raises(ImageUnavailable, match="task's id"):
        reader(studio, LEGACY).fetch(ImageRef("gs://bucket/a.png", task_id=task))
    assert studio.requests == []


def test_a_relative_address_needs_label_studios_url() -> None:
    with pytest.raises(ImageUnavailable, match="LABEL_STUDIO_URL"):
        reader().fetch(ImageRef(UPLOAD))


def test_the_hostname_of_setup_is_not_exempt_from_the_address_policy(studio: FakeLabelStudio) -> None:
    with pytest.raises(ImageNotAllowed):
        reader(None, LEGACY).fetch(ImageRef(UPLOAD, hostname=studio.url))
    assert studio.requests == []


@pytest.mark.parametrize("address", ["/data/upload/1/a.png", "{url}/data/upload/1/a.png"])
def test_without_the_setting_the_cure_is_label_studios_url_and_key(studio: FakeLabelStudio, address: str) -> None:
    ref = ImageRef(address.replace("{url}", studio.url), hostname=f"{studio.url}/")
    with pytest.raises(ImageNotAllowed, match=r"LABEL_STUDIO_URL .* LABEL_STUDIO_API_KEY") as caught:
        reader().fetch(ref)
    assert "M2N2_ALLOWED_HOSTS" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "/studio"])
def test_label_studio_under_the_name_it_gives_itself_is_asked_where_the_setting_says(
    studio: FakeLabelStudio, prefix: str
) -> None:
    ref = ImageRef(
        f"http://localhost:8080{prefix}/data/local-files/?d=a.png", hostname=f"http://localhost:8080{prefix}/"
    )
    assert reader(studio, LEGACY).fetch(ref).data == png()
    assert studio.paths() == ["/data/local-files/?d=a.png"]
    assert studio.tokens("/") == [f"Token {LEGACY}"]


@pytest.mark.parametrize(
    "ref",
    [
        ImageRef("http://localhost:8080/data/a.png"),
        ImageRef("http://localhost:8080/data/a.png", hostname="http://localhost:8081"),
        ImageRef("http://localhost:8080/data/a.png", hostname="http://localhost:8080/studio"),
        ImageRef("http://localhost:8080/api/projects/7/next", hostname="http://localhost:8080"),
        ImageRef("http://localhost:8080/data/a.png", hostname="http://[::1"),
    ],
)
def test_other_addresses_are_not_taken_for_label_studios(studio: FakeLabelStudio, ref: ImageRef) -> None:
    with pytest.raises(ImageNotAllowed, match="M2N2_ALLOWED_HOSTS"):
        reader(studio, LEGACY).fetch(ref)
    assert studio.requests == []


def test_the_setting_wins_over_the_hostname_of_setup(studio: FakeLabelStudio, elsewhere: FakeLabelStudio) -> None:
    reader(studio, LEGACY).fetch(ImageRef(UPLOAD, hostname=elsewhere.url))
    assert elsewhere.requests == []


@pytest.mark.parametrize("path", ["/studio/open/a.png", "/open/a.png"])
def test_a_label_studio_below_a_path_is_asked_there_once(studio: FakeLabelStudio, path: str) -> None:
    media = MediaReader(settings(label_studio_url=f"{studio.url}/studio"))
    with pytest.raises(ImageUnavailable, match="404"):
        media.fetch(ImageRef(path))
    assert studio.paths() == ["/studio/open/a.png"]


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "text/plain", "application/json", ""])
def test_the_bytes_decide_whatever_the_server_says_they_are(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio, kind: str
) -> None:
    media = reader(studio, LEGACY, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    for server in (studio, elsewhere):
        server.kinds["a.png"] = kind
        assert media.fetch(ImageRef(f"{server.url}/file/a.png")).data == png()


@pytest.mark.parametrize("status", [401, 403])
def test_a_host_that_refuses_programs_is_not_taken_for_label_studio(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio, status: int
) -> None:
    media = reader(studio, LEGACY, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    with pytest.raises(ImageUnavailable, match="refuses programs or requires a login; upload the image") as caught:
        media.fetch(ImageRef(f"{elsewhere.url}/status/{status}"))
    assert "LABEL_STUDIO_URL" not in str(caught.value)


def test_a_label_studio_that_the_settings_do_not_name_is_recognized_by_its_paths(elsewhere: FakeLabelStudio) -> None:
    media = reader(None, None, allowed_hosts=f"127.0.0.1:{elsewhere.port}")
    with pytest.raises(ImageUnavailable, match=r"401 .* set LABEL_STUDIO_URL to it and LABEL_STUDIO_API_KEY"):
        media.fetch(ImageRef(f"{elsewhere.url}/data/upload/1/a.png"))


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("{url}\\open\\a.png", ["/open/a.png"]),
        ("HTTP:\\\\{host}\\open/a.png", ["/open/a.png"]),
        ("\\open\\a.png", ["/open/a.png"]),
        ("{url}/open%5Ca.png", ["/open%5Ca.png", "/open/a.png"]),
        ("/open%5ca.png", ["/open%5ca.png", "/open/a.png"]),
        ("/file/a.png?path=b\\c", ["/file/a.png?path=b\\c"]),
    ],
)
def test_backslashes_in_paths_are_slashes(studio: FakeLabelStudio, written: str, asked: list[str]) -> None:
    url = written.replace("{url}", studio.url).replace("{host}", f"127.0.0.1:{studio.port}")
    assert reader(studio, LEGACY).fetch(ImageRef(url)).data == png()
    assert studio.paths() == asked


def test_a_backslash_before_another_host_does_not_lead_there(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio
) -> None:
    url = f"{studio.url}\\@127.0.0.1:{elsewhere.port}/open/a.png"
    with pytest.raises(ImageUnavailable, match="404"):
        reader(studio, LEGACY).fetch(ImageRef(url))
    assert elsewhere.requests == []


def test_label_studio_is_asked_for_a_local_file_as_windows_writes_it(studio: FakeLabelStudio) -> None:
    studio.files["sub/a.png"] = png()
    assert reader(studio, LEGACY).fetch(ImageRef("/data/local-files/?d=sub\\a.png")).data == png()
    assert studio.tokens("/data") == [f"Token {LEGACY}"] * 2
