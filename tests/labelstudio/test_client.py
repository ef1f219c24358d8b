"""The client of Label Studio's API: where its token goes, what it makes of answers; over a real socket."""

from __future__ import annotations

import socket

import pytest
from fake_label_studio import LEGACY, PERSONAL, FakeLabelStudio
from label_studio_fakes import settings

from m2n2_backend.errors import LabelStudioUnavailable, SettingsError, TokenRefused
from m2n2_backend.labelstudio.client import PAGE, LabelStudioClient


@pytest.fixture
def studio(studio: FakeLabelStudio) -> FakeLabelStudio:
    """With one project."""
    studio.connect("http://backend:9090")
    return studio


@pytest.mark.parametrize("key", [LEGACY, PERSONAL])
def test_either_kind_of_token_is_taken_and_asked_for_once(studio: FakeLabelStudio, key: str) -> None:
    client = LabelStudioClient(studio.url, key)
    assert client.is_personal == (key == PERSONAL)
    assert [client.project(1)["title"] for _ in range(3)] == ["project 1"] * 3
    assert studio.paths().count("/api/token/refresh/") == (key == PERSONAL)
    assert studio.tokens("/api/token") == [None] * (key == PERSONAL)


def test_an_access_token_that_is_refused_is_renewed_once(studio: FakeLabelStudio) -> None:
    client = LabelStudioClient(studio.url, PERSONAL)
    client.project(1)
    studio.generation = 100
    assert client.project(1)["id"] == 1
    assert studio.paths().count("/api/token/refresh/") == 2


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        ("mistyped", "401 for GET /api/projects/1/: Invalid token; `m2n2-backend doctor`"),
        ("mis.typed.token", "the personal access token is wrong, expired or revoked"),
        ("with space", "LABEL_STUDIO_API_KEY is not a valid token"),
    ],
)
def test_a_wrong_token_is_explained_and_not_shown(studio: FakeLabelStudio, key: str, cause: str) -> None:
    with pytest.raises(LabelStudioUnavailable, match=cause) as caught:
        LabelStudioClient(studio.url, key).project(1)
    assert isinstance(caught.value, TokenRefused) == (key != "mistyped")
    assert key not in str(caught.value)


@pytest.mark.parametrize("key", [LEGACY, PERSONAL])
def test_neither_token_nor_key_follows_a_redirect_to_another_address(
    studio: FakeLabelStudio, elsewhere: FakeLabelStudio, key: str
) -> None:
    client = LabelStudioClient(studio.url, key)
    with pytest.raises(LabelStudioUnavailable, match="set LABEL_STUDIO_URL to the address") as caught:
        client.call("GET", "/away", to=f"{elsewhere.url}/api/version?secret=1")
    for outside in (f"{elsewhere.url}/api/version", f"@127.0.0.1:{elsewhere.port}/api/version"):
        with pytest.raises(ValueError, match="slash"):
            client.call("GET", outside)
    assert elsewhere.requests == []
    assert "secret" not in str(caught.value)


def test_a_proxy_of_the_environment_never_sees_the_token(
    studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert LabelStudioClient(studio.url, LEGACY).project(1)["id"] == 1


def test_no_connection_and_no_answer_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LabelStudioUnavailable, match=f"timed out .{url}/api/projects/1/"):
            LabelStudioClient(url, None, seconds=0.05).project(1)
    with pytest.raises(LabelStudioUnavailable, match="Connection refused"):
        LabelStudioClient(url, None).project(1)


def test_an_answer_without_json_is_seen_by_its_status_alone(studio: FakeLabelStudio) -> None:
    client = LabelStudioClient(studio.url, LEGACY)
    for path, status in (("/login/", 200), ("/open/a.png", 200), ("/status/500", 500)):
        reply = client.ask("GET", path)
        assert (reply.status, reply.data, reply.detail) == (status, None, "")


def test_tasks_come_page_by_page_and_those_deleted_meanwhile_hide_no_other(studio: FakeLabelStudio) -> None:
    for _ in range(PAGE + 5):
        studio.add_task(1)
    seen = []
    for task in LabelStudioClient(studio.url, LEGACY).tasks(1):
        if not seen:
            del studio.tasks[:50]
        seen.append(task["id"])
    assert seen == list(range(1, PAGE + 6))


def test_only_whole_tasks_carry_annotations_and_predictions(studio: FakeLabelStudio) -> None:
    studio.add_task(1, {"id": "a"})
    client = LabelStudioClient(studio.url, LEGACY)
    (short,), (whole,) = client.tasks(1), client.tasks(1, whole=True)
    assert set(whole) - set(short) == {"annotations", "drafts", "predictions"}


def test_the_next_tasks_are_those_without_annotations_after_the_one_that_is_open(studio: FakeLabelStudio) -> None:
    for labeled in (False, False, True, False, False, False):
        studio.add_task(1, *([{"id": "a"}] if labeled else []))
    client = LabelStudioClient(studio.url, LEGACY)
    assert [task["id"] for task in client.upcoming("1.1795354407", 2, 2)] == [4, 5]
    asked = len(studio.requests)
    assert list(client.upcoming("", 2, 2)) == list(client.upcoming("1", None, 2)) == []
    assert len(studio.requests) == asked


def test_a_backend_is_connected_once_and_changed_after_that(studio: FakeLabelStudio) -> None:
    studio.projects[2] = studio.projects[1]
    client = LabelStudioClient(studio.url, LEGACY)
    for port in (9090, 9091):
        client.connect_backend(2, f"http://127.0.0.1:{port}")
    (model,) = client.models(2)
    assert (model["url"], model["is_interactive"]) == ("http://127.0.0.1:9091", True)


def test_what_label_studio_declines_is_told_in_its_words_with_the_field(studio: FakeLabelStudio) -> None:
    client = LabelStudioClient(studio.url, LEGACY)
    with pytest.raises(
        LabelStudioUnavailable, match=r'400 for POST /api/ml/: Validation error: \{"project": \["This'
    ):
        client.call("POST", "/api/ml/", {"url": "http://backend:9090"})


def test_settings_without_address_or_token_say_what_to_set(studio: FakeLabelStudio) -> None:
    for given in ({"label_studio_url": studio.url}, {"label_studio_api_key": LEGACY}):
        with pytest.raises(SettingsError, match="set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"):
            LabelStudioClient.of(settings(**given))
