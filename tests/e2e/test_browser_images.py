from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from editor import Editor, iou
from pictures import DISC, SIZE, disc, mask_of, save_dense, save_scene, save_turned
from rig import Backend, Studio, running_backend

from m2n2_backend.labelstudio.client import LabelStudioClient


def test_the_mask_of_a_turned_photograph_lies_on_the_object_as_it_is_shown(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    number, (task,) = studio.project("EXIF", "brush", [save_turned(tmp_path)], backend.url)
    editor.open(number, task)
    (region,) = editor.click(DISC[0], DISC[1]).json()["data"]["result"]
    assert (region["original_width"], region["original_height"]) == SIZE
    assert iou(mask_of([region]), disc()) > 0.95
    assert editor.painted(disc()) > 0.9


def test_the_mask_of_a_photograph_shown_at_half_its_size_and_cut_off_lies_on_the_object(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    number, (task,) = studio.project("density", "brush", [save_dense(tmp_path)], backend.url)
    editor.open(number, task)
    (region,) = editor.click(DISC[0] // 2, DISC[1] // 2).json()["data"]["result"]
    assert (region["original_width"], region["original_height"]) == (SIZE[0] // 2, SIZE[1] // 2)
    assert iou(mask_of([region]), disc()[::2, ::2]) > 0.9


def test_images_of_local_files_are_read_through_label_studio(
    editor: Editor, studio: Studio, backend: Backend
) -> None:
    folder = studio.files / "photographs"
    folder.mkdir()
    save_scene(folder, "local scene.jpg")
    number, _ = studio.project("local files", "brush", [], backend.url)
    storage = {"project": number, "path": str(folder.resolve()), "use_blob_urls": True, "regex_filter": ".*jpg"}
    made = studio.api.call("POST", "/api/storages/localfiles", storage)
    studio.api.call("POST", f"/api/storages/localfiles/{made['id']}/sync", {})
    (task,) = studio.tasks(number)
    assert "/data/local-files/" in studio.api.call("GET", f"/api/tasks/{task}")["data"]["image"]
    editor.open(number, task)
    mask = mask_of(editor.click(DISC[0], DISC[1]).json()["data"]["result"])
    assert iou(mask, disc()) > 0.95
    assert editor.painted(mask) > 0.9


@pytest.fixture
def personal_token(studio: Studio) -> Iterator[str]:
    """A personal access token while legacy tokens are switched off."""
    token = studio.api.call("POST", "/api/token/", {})["token"]
    switches = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": False}
    studio.api.call("POST", "/api/jwt/settings", switches)
    yield token
    switches["legacy_api_tokens_enabled"] = True
    LabelStudioClient(studio.url, token).call("POST", "/api/jwt/settings", switches)


def test_a_personal_access_token_is_enough_where_legacy_tokens_are_off(
    editor: Editor, studio: Studio, backend: Backend, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    number, (task,) = studio.project("PAT", "brush", [save_scene(tmp_path)], backend.url)
    token = request.getfixturevalue("personal_token")
    assert studio.api.ask("GET", "/api/projects/").status == 401
    with running_backend(studio, token) as own:
        LabelStudioClient(studio.url, token).connect_backend(number, own.url)
        editor.open(number, task)
        mask = mask_of(editor.click(DISC[0], DISC[1]).json()["data"]["result"])
    assert iou(mask, disc()) > 0.95
    assert editor.painted(mask) > 0.9
