from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from editor import Editor, iou, sent
from pictures import DISC, PLATE, disc, mask_of, plate, save_scene
from rig import Backend, Studio

from m2n2_backend.resources import sample_photograph

if TYPE_CHECKING:
    pass


@pytest.fixture
def scene_task(studio: Studio, backend: Backend, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[int, int]:
    number, tasks = studio.project(request.node.name[:50], "brush", [save_scene(tmp_path)], backend.url)
    return number, tasks[0]


def test_the_first_click_paints_a_mask_on_the_object(editor: Editor, scene_task: tuple[int, int]) -> None:
    editor.open(*scene_task)
    answer = editor.click(DISC[0], DISC[1])
    (region,) = answer.json()["data"]["result"]
    assert region["type"] == "labels"
    assert region["value"]["labels"] == ["Object"]
    mask = mask_of([region])
    assert iou(mask, disc()) > 0.95
    assert editor.painted(mask) > 0.9


def test_further_clicks_of_both_kinds_refine_the_one_mask(editor: Editor, studio: Studio, backend: Backend) -> None:
    number, tasks = studio.project("refine", "brush", [sample_photograph()], backend.url)
    editor.open(number, tasks[0])
    hair = mask_of(editor.click(230, 60, "Person").json()["data"]["result"])
    both = mask_of(editor.click(215, 380, "Person").json()["data"]["result"])
    answer = editor.click(120, 60, "Person", positive=False)
    assert [prompt["is_positive"] for prompt in sent(answer)] == [True, True, False]
    (region,) = answer.json()["data"]["result"]
    final = mask_of([region])
    assert hair[60, 230]
    assert not hair[380, 215]
    assert both[60, 230]
    assert both[380, 215]
    assert final[60, 230]
    assert final[380, 215]
    assert not final[60, 120]
    assert editor.painted(final) > 0.9
    editor.accept()
    assert [saved["type"] for saved in editor.regions()] == ["labels"]


def test_a_click_after_a_pause_in_which_the_draft_was_saved_still_refines(
    editor: Editor, scene_task: tuple[int, int]
) -> None:
    editor.open(*scene_task)
    with editor.page.expect_response(lambda response: "/drafts" in response.url and response.ok):
        editor.click(DISC[0], DISC[1])
    on_plate = ((PLATE[0] + PLATE[2]) // 2, (PLATE[1] + PLATE[3]) // 2)
    mask = mask_of(editor.click(*on_plate).json()["data"]["result"])
    assert iou(mask, disc() | plate()) > 0.95
    assert editor.painted(mask) > 0.9


def test_prompts_of_a_mask_accepted_on_the_canvas_do_not_leak_into_the_next_object(
    editor: Editor, scene_task: tuple[int, int]
) -> None:
    editor.open(*scene_task)
    with editor.page.expect_response(lambda response: "/drafts" in response.url and response.ok):
        editor.click(DISC[0], DISC[1])
        editor.accept_on_canvas()
    answer = editor.click((PLATE[0] + PLATE[2]) // 2, (PLATE[1] + PLATE[3]) // 2)
    assert len(sent(answer)) == 2
    assert iou(mask_of(answer.json()["data"]["result"]), plate()) > 0.95
    assert sum("rle" in region["value"] for region in editor.regions()) == 1


def test_a_rectangle_gives_the_object_inside(editor: Editor, scene_task: tuple[int, int]) -> None:
    editor.open(*scene_task, tool="rectangle-tool")
    x, y, radius = DISC
    answer = editor.drag(x - radius - 15, y - radius - 15, x + radius + 15, y + radius + 15, "Vehicle")
    assert [prompt["type"] for prompt in sent(answer)] == ["rectangle"]
    mask = mask_of(answer.json()["data"]["result"])
    assert iou(mask, disc()) > 0.95
    editor.accept()
    (region,) = editor.regions()
    assert region["value"]["labels"] == ["Vehicle"]


def test_two_labels_in_turn_give_two_regions(editor: Editor, scene_task: tuple[int, int]) -> None:
    editor.open(*scene_task)
    editor.click(DISC[0], DISC[1], "Person")
    editor.accept()
    answer = editor.click((PLATE[0] + PLATE[2]) // 2, (PLATE[1] + PLATE[3]) // 2, "Vehicle")
    assert len(sent(answer)) == 1
    editor.accept()
    regions = {region["value"]["labels"][0]: mask_of([region]) for region in editor.regions()}
    assert set(regions) == {"Person", "Vehicle"}
    assert iou(regions["Person"], disc()) > 0.95
    assert iou(regions["Vehicle"], plate()) > 0.95
