"""What an annotator does all day with the shipped labeling config: labels, keys, tools, boxes, undo, Submit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from actions import SIX, Counted, new_config, old_config
from editor import Editor, OpenEditor, iou, sent
from pictures import DISC, PLATE, disc, mask_of, plate, save_scene
from rig import OUT, Backend, Studio

from m2n2_backend.resources import label_config

if TYPE_CHECKING:
    from playwright.sync_api import Response

ON_DISC, ON_PLATE = DISC[:2], ((PLATE[0] + PLATE[2]) // 2, (PLATE[1] + PLATE[3]) // 2)
OUTPUTS = ("brush", "bitmask", "polygon")
WINDOWS = ((1366, 768), (1920, 1080))


@pytest.fixture(params=OUTPUTS)
def output(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def script(editor: Editor) -> None:
    editor.page.add_init_script(path=label_config("brush").with_name("careful_clicks.user.js"))


def start(editor: Editor, studio: Studio, backend: Backend, folder: Path, output: str = "brush", *keys: str) -> int:
    """Open a task as an annotator finds it, press keys, and return the task's id."""
    number, (task,) = studio.project(f"annotator {folder.name}", output, [save_scene(folder)], backend.url)
    editor.open(number, task, tool=None)
    editor.page.evaluate("document.activeElement.blur()")  # the keys do nothing while the switch has the focus
    for key in keys or ("1", "m"):
        editor.page.keyboard.press(key)
    return task


def click(editor: Editor, place: tuple[int, int], *held: str) -> Response:
    """Click and wait for the mask."""
    for key in held:
        editor.page.keyboard.down(key)
    with editor.page.expect_response(lambda response: "interactive-annotating" in response.url) as info:
        editor.press(*place)
    for key in held:
        editor.page.keyboard.up(key)
    return editor.shown(info.value)


def state(editor: Editor) -> tuple[str, list[str]]:
    tool, selected = editor.page.evaluate("[m2n2.tool(), m2n2.selected('label')]")
    return tool, selected


def masks(regions: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Label and mask of each region that is not a prompt."""
    shown = [
        one for one in regions if one["type"] == "labels" and {"rle", "imageDataURL", "points"} & {*one["value"]}
    ]
    return [(one["value"]["labels"][0], mask_of([one])) for one in shown]


def labels_in_the_list(editor: Editor) -> list[str]:
    return [title.strip() for title in editor.page.locator(".lsf-outliner-item__title").all_inner_texts()]


def test_a_label_and_the_smart_tool_stay_from_click_to_click_and_from_object_to_object(
    output: str, editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    task = start(editor, studio, backend, tmp_path, output)
    chosen = ("KeyPointTool-dynamic", ["Object"])
    assert state(editor) == chosen
    for place in (ON_DISC, ON_PLATE):
        click(editor, place)
        assert state(editor) == chosen
        editor.accept()
        assert state(editor) == chosen
    editor.page.keyboard.press("2")
    assert state(editor) == ("KeyPointTool-dynamic", ["Person"])
    click(editor, (20, 20))
    editor.accept()
    assert labels_in_the_list(editor) == ["Object", "Object", "Person"]
    editor.submit()
    (annotation,) = studio.api.call("GET", f"/api/tasks/{task}/annotations")
    found = masks(annotation["result"])
    assert [label for label, _ in found] == ["Object", "Object", "Person"]
    assert iou(found[0][1], disc()) > 0.95
    assert iou(found[1][1], plate()) > 0.95
    assert len(annotation["result"]) == (6 if output == "polygon" else 3)


def test_a_finished_mask_gets_another_label_with_one_key(
    output: str, editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    start(editor, studio, backend, tmp_path, output)
    click(editor, ON_DISC)
    editor.accept()
    editor.page.locator(".lsf-outliner-item__title").click()
    editor.page.wait_for_function("m2n2.annotation().selectedRegions.length === 1")
    editor.page.keyboard.press("3")
    assert [label for label, _ in masks(editor.regions())] == ["Vehicle"]
    assert labels_in_the_list(editor) == ["Vehicle"]


@pytest.mark.parametrize("window", WINDOWS)
def test_labels_and_image_are_on_the_first_screen(
    window: tuple[int, int], editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    editor.page.set_viewport_size({"width": window[0], "height": window[1]})
    start(editor, studio, backend, tmp_path)
    click(editor, ON_DISC)
    for label in editor.page.locator(".lsf-label").all():
        box = label.bounding_box()
        assert box is not None
        assert 0 < box["y"] < editor.page.evaluate("m2n2.view().top")
    assert editor.page.evaluate("m2n2.view().top") < 220
    editor.page.screenshot(path=OUT / f"annotator_{window[0]}.png")


def test_without_the_script_undo_and_submit_keep_what_the_readme_says(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    task = start(editor, studio, backend, tmp_path)
    click(editor, ON_DISC)
    editor.page.keyboard.press("Control+z")
    editor.page.wait_for_function("m2n2.regions().length === 0")
    assert len(editor.page.evaluate("m2n2.suggestions()")) == 1, "the stale mask"
    assert state(editor)[1] == [], "undo unselects the label too"
    editor.page.keyboard.press("1")
    click(editor, ON_PLATE)
    editor.submit()
    (annotation,) = studio.api.call("GET", f"/api/tasks/{task}/annotations")
    assert {one["type"] for one in annotation["result"]} == {"keypoint", "labels"}
    assert masks(annotation["result"]) == []


@pytest.mark.usefixtures("script")
def test_the_script_asks_again_after_undo_and_drops_the_mask_of_no_points(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    start(editor, studio, backend, tmp_path)
    click(editor, ON_DISC)
    click(editor, ON_PLATE)
    with editor.page.expect_response(lambda response: "interactive-annotating" in response.url) as info:
        editor.page.keyboard.press("Control+z")
    assert iou(mask_of(info.value.json()["data"]["result"]), disc()) > 0.95
    editor.shown(info.value)
    assert state(editor) == ("KeyPointTool-dynamic", ["Object"])
    editor.page.keyboard.press("Control+z")
    editor.page.wait_for_function("m2n2.suggestions().length === 0")
    click(editor, ON_PLATE)


@pytest.mark.usefixtures("script")
def test_the_script_accepts_a_pending_mask_before_another_label_and_before_submit(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    task = start(editor, studio, backend, tmp_path)
    click(editor, ON_DISC)
    editor.page.keyboard.press("2")
    click(editor, ON_PLATE)
    editor.submit()
    (annotation,) = studio.api.call("GET", f"/api/tasks/{task}/annotations")
    (first, of_disc), (second, of_plate) = masks(annotation["result"])
    assert (first, second, len(annotation["result"])) == ("Object", "Person", 2)
    assert iou(of_disc, disc()) > 0.95
    assert iou(of_plate, plate()) > 0.95


def boxed(editor: Editor) -> None:
    """Draw a box around the disc, and take the key point tool again."""
    editor.page.locator(".lsf-toolbar__group > button.lsf-tool_smart").hover()
    editor.page.locator(".lsf-toolbar__smart button[aria-label=rectangle-tool]").click()
    editor.page.mouse.move(0, 0)
    x, y, radius = DISC
    with editor.page.expect_response(lambda response: "interactive-annotating" in response.url) as info:
        editor.stroke([(x - radius - 15, y - radius - 15), (x, y), (x + radius + 15, y + radius + 15)])
    editor.shown(info.value)
    editor.page.locator(".lsf-toolbar__group > button.lsf-tool_smart").hover()
    editor.page.locator(".lsf-toolbar__smart button[aria-label=key-point-tool]").click()
    editor.page.mouse.move(0, 0)


def test_a_click_in_a_box_needs_ctrl_and_sends_the_point_alone(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    start(editor, studio, backend, tmp_path)
    boxed(editor)
    editor.press(*ON_DISC)
    editor.page.wait_for_function("m2n2.annotation().selectedRegions.length === 1")
    editor.page.keyboard.press("Escape")
    editor.page.keyboard.press("1")
    answer = click(editor, ON_DISC, "Control")
    assert {one["type"] for one in answer.request.post_data_json["context"]["result"]} == {"keypoint", "labels"}


@pytest.mark.usefixtures("script")
def test_the_script_lets_clicks_correct_the_mask_of_a_box(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    start(editor, studio, backend, tmp_path)
    boxed(editor)
    answer = click(editor, (ON_DISC[0], ON_DISC[1] + 40), "Alt")
    assert [one["type"] for one in sent(answer)] == ["rectangle", "keypoint"]
    editor.page.wait_for_function(
        "[...m2n2.annotation().areas.values()].find(one => one.negative).shapeRef.fill() === 'black'"
    )
    editor.page.screenshot(path=OUT / "box_and_alt_click.png")
    editor.accept()
    ((_, mask),) = masks(editor.regions())
    assert not mask[ON_DISC[1] + 40, ON_DISC[0]]


def test_points_that_were_forgotten_become_predictions(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from m2n2_backend.cli import app

    task = start(editor, studio, backend, tmp_path)
    click(editor, ON_DISC)
    editor.submit()
    project = studio.api.call("GET", f"/api/tasks/{task}")["project"]
    environment = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.account.token}
    environment |= {"M2N2_CACHE_DIR": str(tmp_path / "cache"), "M2N2_WORKERS": "1"}
    done = CliRunner(env=environment).invoke(
        app, ["predict-project", "--project", str(project), "--backbone", "color"]
    )
    assert done.exit_code == 0, done.output
    (stored,) = studio.api.tasks(project, whole=True)
    ((label, mask),) = masks(stored["predictions"][0]["result"])
    assert label == "Object"
    assert iou(mask, disc()) > 0.95


def test_six_objects_take_fewer_keys_and_clicks_than_with_the_old_config(
    open_editor: OpenEditor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    counts = {}
    for name, steps in (("old/brush", old_config), ("brush", new_config)):
        number, (task,) = studio.project(f"six {name}", name, [save_scene(tmp_path)], backend.url)
        editor = open_editor()
        editor.open(number, task, tool=None)
        counts[name] = Counted(editor)
        steps(counts[name])
        assert sum("rle" in one["value"] for one in editor.regions()) == len(SIX), name
    before, after = (counted.actions / len(SIX) for counted in counts.values())
    print(f"keys and clicks per object: {before:.1f} with old/brush.xml, {after:.1f} with brush.xml")
    assert after < before
