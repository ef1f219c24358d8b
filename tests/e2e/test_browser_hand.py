"""What the annotators' page says of the editor and no other scene shows, with the browser script and without."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from editor import Editor, iou, sent
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from pictures import DISC, disc, mask_of, plate, save_scene
from rig import Backend, Studio
from test_browser_annotator import ON_DISC, ON_PLATE, boxed, click, masks, start, state

from m2n2_backend.resources import label_config

CROSS, SMART_TOOL = "bottombar-reject-suggestions-button", "KeyPointTool-dynamic"


EDITORS = [("brush", False), ("brush", True)]
"""Labeling configs, with the browser script or without."""


@pytest.fixture(params=EDITORS, ids=["plain", "script"])
def hand(request: pytest.FixtureRequest, editor: Editor, studio: Studio, backend: Backend, tmp_path: Path) -> Editor:
    """A task with Auto-Annotation on, the label Object and the smart tool chosen."""
    config, script = request.param
    if script:
        editor.page.add_init_script(path=label_config("brush").with_name("careful_clicks.user.js"))
    start(editor, studio, backend, tmp_path, config)
    return editor


# The canvas takes a click for a new point until the mask is drawn. Where a bitmask is, it asks the bitmask itself.
TAKES_CLICKS = """([x, y]) => {
  const stage = m2n2.image().stageRef, box = stage.container().getBoundingClientRect();
  const hit = stage.getIntersection({x: x - box.x, y: y - box.y});
  const isBitmask = [...m2n2.annotation().areas.values()].some(one => one.type === 'bitmaskregion');
  return isBitmask || (hit && hit.getClassName() === 'Image');
}"""


def select(editor: Editor, place: tuple[int, int]) -> None:
    """Click on a finished mask."""
    editor.page.wait_for_function(TAKES_CLICKS, arg=list(editor.in_window(*place)))
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


@pytest.mark.parametrize("hand", [*EDITORS, ("bitmask", False)], indirect=True, ids=["plain", "script", "bitmask"])
def test_brush_and_eraser_are_the_first_tools_and_change_the_selected_mask(hand: Editor) -> None:
    brush, eraser = (hand.page.locator(".lsf-toolbar__group > button").nth(number) for number in (0, 1))
    click(hand, ON_DISC)
    hand.accept()
    select(hand, ON_DISC)
    brush.click()
    hand.stroke([(320, 430), (345, 430), (360, 440)])
    only_mask(hand, lambda mask: bool(mask[430, 345]))
    eraser.click()
    hand.stroke([ON_DISC, (ON_DISC[0] + 30, ON_DISC[1])])
    only_mask(hand, lambda mask: bool(mask[430, 345]) and not mask[ON_DISC[1], ON_DISC[0] + 15])
    hand.page.keyboard.press("Escape")
    for key in ("1", "m"):  # back to clicking
        hand.page.keyboard.press(key)
    assert state(hand) == (SMART_TOOL, ["Object"])
    hand.page.mouse.move(0, 0)
    click(hand, ON_PLATE)
    hand.accept()
    assert len(masks(hand.regions())) == 2


def only_mask(editor: Editor, holds: Callable[[NDArray[np.bool_]], bool]) -> None:
    """Wait until there is one mask, and something holds of it."""
    for _ in range(100):
        ((_, mask),) = masks(editor.regions())
        if holds(mask):
            return
        editor.page.wait_for_timeout(100)
    raise AssertionError("the stroke does not change the mask")


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
    assert [one["is_positive"] for one in sent(answer)] == [True]
    answer = click(hand, ON_PLATE, "Control", "Alt")
    assert [one["is_positive"] for one in sent(answer)] == [True, False]


def test_a_finished_mask_gets_the_label_whose_number_is_pressed_and_esc_ends_that(hand: Editor) -> None:
    click(hand, ON_DISC)
    hand.accept()
    select(hand, ON_DISC)
    hand.page.keyboard.press("3")
    hand.page.keyboard.press("Escape")
    hand.page.wait_for_function("!m2n2.annotation().hasSelection")
    assert state(hand) == (SMART_TOOL, [])
    hand.page.keyboard.press("1")
    click(hand, ON_PLATE)
    hand.accept()
    assert [label for label, _ in masks(hand.regions())] == ["Vehicle", "Object"]


def test_switch_and_tool_stay_for_the_next_picture_and_the_label_does_not(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    images = [save_scene(tmp_path, name) for name in ("first.jpg", "second.jpg")]
    number, tasks = studio.project("next picture", "brush", images, backend.url)
    editor.open(number, None, tool=None)
    editor.page.keyboard.press("1")
    editor.page.wait_for_timeout(500)
    assert state(editor)[1] == [], "keys do nothing while the switch has the focus"
    editor.choose_only_label("Object")
    editor.page.keyboard.press("m")
    click(editor, ON_DISC)
    editor.accept()
    editor.submit()
    editor.page.wait_for_function("id => m2n2.ready() && Htx.task.id === id", arg=tasks[1])
    assert editor.page.evaluate("Htx.autoAnnotation")
    assert state(editor) == (SMART_TOOL, [])


def test_the_page_prints_on_one_sheet_with_its_pictures(chromium: Any, tmp_path: Path) -> None:
    source = label_config("brush").with_name("ANNOTATORS.md").resolve()
    html = tmp_path / "page.html"
    style = "body {font: 12px/1.4 sans-serif}"
    rendered = MarkdownIt().render(source.read_text(encoding="utf-8"))
    html.write_text(f'<meta charset="utf-8"><base href="{source.as_uri()}"><style>{style}</style>{rendered}', "utf-8")
    page = chromium.new_page()
    page.goto(html.as_uri())
    assert page.evaluate("[...document.images].every(each => each.naturalWidth > 900)")
    sheets = page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "10mm"))
    page.close()
    assert len(re.findall(rb"/Type /Page\b", sheets)) == 1
