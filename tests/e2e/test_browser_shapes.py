"""Strokes, ellipses and polygons: what Label Studio does with them by itself, and with the script that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from editor import Editor, OpenEditor, iou
from pictures import DISC, PLATE, disc, mask_of, plate, save_scene
from rig import Backend, Studio
from test_studio_api import run

from m2n2_backend.resources import label_config

if TYPE_CHECKING:
    from playwright.sync_api import Page

X, Y, RADIUS = DISC
STROKE = [(X - 40, Y - 30), (X, Y), (X + 45, Y + 20)]
ELLIPSE = [(X, Y), (X + RADIUS + 18, Y + RADIUS + 12)]
POLYGON = [(PLATE[0] - 40, PLATE[1] - 35), (PLATE[2] + 40, PLATE[1] - 45), (PLATE[2] + 35, PLATE[3] + 40)]
POLYGON += [(PLATE[0] - 35, PLATE[3] + 45), POLYGON[0]]


@pytest.fixture
def shapes_task(studio: Studio, backend: Backend, tmp_path: Path) -> tuple[int, int]:
    number, (task,) = studio.project("shapes", "shapes", [save_scene(tmp_path)], backend.url)
    return number, task


def draw(editor: Editor, tool: str) -> None:
    """Draw with the plain tool of that name on the disc, or a polygon around the plate."""
    editor.choose_tool(tool)
    editor.choose_only_label("Person")
    with editor.one_region_more():
        if tool == "polygon-tool":
            for corner in POLYGON:
                editor.press(*corner)
        else:
            editor.stroke(ELLIPSE if tool == "ellipse-tool" else STROKE)


@pytest.mark.parametrize(
    ("tool", "kind"), [("bitmask-tool", "bitmask"), ("ellipse-tool", "ellipse"), ("polygon-tool", "polygon")]
)
def test_with_the_script_a_shape_is_answered_as_soon_as_it_is_drawn(
    tool: str, kind: str, open_editor: OpenEditor, shapes_task: tuple[int, int]
) -> None:
    editor = open_editor()
    editor.page.add_init_script(path=label_config("shapes").with_name("smart_tools.user.js"))
    editor.open(*shapes_task, tool=None)
    with editor.page.expect_response(lambda response: "interactive-annotating" in response.url) as info:
        draw(editor, tool)
    answer = editor.shown(info.value)
    sent = answer.request.post_data_json["context"]["result"]
    assert [item["type"] for item in sent] == [kind, "labels"]
    mask = mask_of(answer.json()["data"]["result"][:1])
    assert iou(mask, plate() if kind == "polygon" else disc()) > 0.95
    editor.accept()
    assert [region["type"] for region in editor.regions()] == ["labels"]


def test_without_the_script_nothing_is_sent_and_predict_project_reads_what_was_saved(
    editor: Editor, studio: Studio, shapes_task: tuple[int, int], tmp_path: Path
) -> None:
    asked = requests_of(editor.page)
    editor.open(*shapes_task, tool=None)
    for tool in ("bitmask-tool", "polygon-tool"):
        draw(editor, tool)
        editor.unselect()
    editor.submit()
    assert not asked
    number, task = shapes_task
    assert run("predict-project", number, studio, tmp_path).startswith("1 posted")
    (stored,) = [one for one in studio.api.tasks(number, whole=True) if one["id"] == task]
    found = [mask_of([region]) for region in stored["predictions"][0]["result"]]
    assert [iou(mask, drawn) > 0.95 for mask, drawn in zip(found, (disc(), plate()), strict=True)] == [True, True]


def requests_of(page: Page) -> list[Any]:
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request) if "interactive-annotating" in request.url else None)
    return asked
