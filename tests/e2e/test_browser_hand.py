"""What the annotators' page says of the editor and no other scene shows, with the browser script and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from editor import Editor, iou
from pictures import DISC, disc, mask_of, plate, save_scene
from rig import Backend, Studio
from test_browser_annotator import ON_DISC, ON_PLATE, boxed, click, masks, start, state

from m2n2_backend.resources import label_config

CROSS, SMART_TOOL = "bottombar-reject-suggestions-button", "KeyPointTool-dynamic"


@pytest.fixture(params=[False, True], ids=["plain", "script"])
def hand(request: pytest.FixtureRequest, editor: Editor, studio: Studio, backend: Backend, tmp_path: Path) -> Editor:
    """A task with Auto-Annotation on, the label Object and the smart tool chosen."""
    if request.param:
        editor.page.add_init_script(path=label_config("brush").with_name("careful_clicks.user.js"))
    start(editor, studio, backend, tmp_path)
    return editor


def select(editor: Editor, place: tuple[int, int]) -> None:
    """Click on a finished mask."""
    editor.press(*place)
    editor.page.wait_for_function("m2n2.annotation().selectedRegions.length === 1")


def finished_masks(editor: Editor, count: int) -> None:
    editor.page.wait_for_function("count => m2n2.annotation().areas.size === count", arg=count)


def test_the_cross_drops_the_mask_with_its_points_and_keeps_the_label(hand: Editor) -> None:
    click(hand, ON_DISC)
    click(hand, ON_PLATE)
    hand.page.get_by_test_id(CROSS).click()
    finished_masks(hand, 0)
    assert hand.page.evaluate("m2n2.suggestions()") == []
    assert state(hand) == (SMART_TOOL, ["Object"])
    assert iou(mask_of(click(hand, ON_PLATE).json()["data"]["result"]), plate()) > 0.95


def test_a_finished_mask_is_deleted_and_begun_again_with_a_rectangle(hand: Editor) -> None:
    click(hand, ON_PLATE)
    hand.accept()
    select(hand, ON_PLATE)
    hand.page.keyboard.press("Backspace")
    finished_masks(hand, 0)
    assert state(hand) == (SMART_TOOL, []), "the label is unselected"
    hand.page.keyboard.press("1")
    boxed(hand)
    hand.accept()
    ((label, mask),) = masks(hand.regions())
    assert label == "Object"
    assert iou(mask, disc()) > 0.95


def test_brush_and_eraser_change_the_selected_mask(hand: Editor) -> None:
    click(hand, ON_DISC)
    hand.accept()
    select(hand, ON_DISC)
    hand.choose_tool("brush-tool")
    hand.stroke([(320, 430), (345, 430), (360, 440)])
    painted = changed(hand, disc())
    assert painted[430, 345]
    hand.choose_tool("eraser")
    hand.stroke([ON_DISC, (ON_DISC[0] + 30, ON_DISC[1])])
    erased = changed(hand, painted)
    assert erased[430, 345]
    assert not erased[ON_DISC[1], ON_DISC[0] + 15]
    hand.page.keyboard.press("Escape")
    for key in ("1", "m"):  # back to clicking
        hand.page.keyboard.press(key)
    assert state(hand) == (SMART_TOOL, ["Object"])
    hand.page.mouse.move(0, 0)
    click(hand, ON_PLATE)
    hand.accept()
    assert len(masks(hand.regions())) == 2


def changed(editor: Editor, before: object) -> object:
    """The only mask, as soon as it is not ``before`` any more."""
    for _ in range(100):
        ((_, mask),) = masks(editor.regions())
        if iou(mask, before) < 0.999:
            return mask
        editor.page.wait_for_timeout(100)
    raise AssertionError("the stroke changes nothing")


def test_after_ctrl_z_the_next_click_gives_the_mask_of_the_points_that_are_left(hand: Editor) -> None:
    click(hand, ON_DISC)
    click(hand, ON_PLATE)
    hand.page.keyboard.press("Control+z")
    finished_masks(hand, 1)
    hand.page.wait_for_timeout(1000)  # the script asks again, and chooses the label
    if not state(hand)[1]:
        hand.page.keyboard.press("1")
    answer = click(hand, (DISC[0] + 30, DISC[1]))
    assert iou(mask_of(answer.json()["data"]["result"]), disc()) > 0.95


def test_a_click_in_a_finished_mask_selects_it_and_ctrl_click_begins_another_object(hand: Editor) -> None:
    click(hand, ON_DISC)
    hand.accept()
    select(hand, ON_DISC)
    hand.page.keyboard.press("Escape")
    hand.page.keyboard.press("1")
    answer = click(hand, ON_DISC, "Control")
    prompts = [one for one in answer.request.post_data_json["context"]["result"] if one["type"] != "labels"]
    assert [one["is_positive"] for one in prompts] == [True]
    answer = click(hand, ON_PLATE, "Control", "Alt")
    prompts = [one for one in answer.request.post_data_json["context"]["result"] if one["type"] != "labels"]
    assert [one["is_positive"] for one in prompts] == [True, False]


def test_switch_and_tool_stay_for_the_next_picture_and_the_label_does_not(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    images = [save_scene(tmp_path, name) for name in ("first.jpg", "second.jpg")]
    number, tasks = studio.project("next picture", "brush", images, backend.url)
    editor.open(number, None)
    editor.choose_only_label("Object")
    click(editor, ON_DISC)
    editor.accept()
    editor.submit()
    editor.page.wait_for_function("id => m2n2.ready() && Htx.task.id === id", arg=tasks[1])
    assert editor.page.evaluate("Htx.autoAnnotation")
    assert state(editor) == (SMART_TOOL, [])
