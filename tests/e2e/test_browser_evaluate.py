"""What was clicked, accepted and edited in a real Label Studio, as ``evaluate --project`` and ``export`` read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from editor import Editor
from pictures import DISC, PLATE, mask_of, save_scene
from rig import Backend, Studio
from typer.testing import CliRunner

from m2n2_backend.cli import app


def run(studio: Studio, *arguments: str) -> Any:
    environment = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.account.token, "COLUMNS": "200"}
    done = CliRunner(env=environment).invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done


def drag_corner(editor: Editor, label: str, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Select the region of a label in the list, and drag a corner of it."""
    before = editor.regions()
    if editor.page.evaluate("Htx.autoAnnotation"):
        editor.page.get_by_test_id("bottombar-auto-annotation-toggle").click()
    editor.choose_tool("move-tool")
    editor.page.locator(".lsf-outliner-item__title", has_text=label).first.click()
    editor.page.wait_for_function("m2n2.annotation().highlightedNode")
    editor.page.mouse.move(*editor.in_window(*start))
    editor.page.mouse.down()
    editor.page.mouse.move(*editor.in_window((start[0] + end[0]) // 2, (start[1] + end[1]) // 2))
    editor.page.mouse.move(*editor.in_window(*end))
    editor.page.mouse.up()
    editor.page.wait_for_function(
        "before => JSON.stringify(m2n2.regions().map(one => one.value)) !== before",
        arg=json.dumps([one["value"] for one in before], separators=(",", ":")),
    )


def once(result: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The regions of a result: the shape and the label of a polygon are two items of one id."""
    return list({one["id"]: one for one in reversed(result)}.values())[::-1]


def test_accepted_masks_are_the_truth_and_tell_their_clicks_and_edits(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    images = [save_scene(tmp_path), save_scene(tmp_path, "other.jpg")]
    number, (parts, edited) = studio.project("evaluated", "polygon", images, backend.url)
    middle = ((PLATE[0] + PLATE[2]) // 2, (PLATE[1] + PLATE[3]) // 2)

    editor.open(number, parts)
    editor.click(*middle, "Vehicle")
    editor.click(DISC[0], DISC[1], "Vehicle")  # a second part of the same object
    editor.accept()
    assert len(once(editor.regions())) == 2
    assert editor.page.locator(".lsf-outliner-item__title").count() == 1  # the list shows one object
    editor.submit()
    editor.open(number, edited)
    editor.click(*middle, "Person")
    editor.accept()
    drag_corner(editor, "Person", (PLATE[2] - 1, PLATE[3] - 1), (PLATE[2] - 60, PLATE[3] - 60))
    editor.submit()
    stored = {task: studio.api.call("GET", f"/api/tasks/{task}/annotations")[0]["result"] for task in (parts, edited)}
    first, second = once(stored[parts])
    assert second["parentID"] == first["id"]
    assert {one["origin"] for one in (first, second, *stored[edited])} == {"manual"}  # also where it was edited

    coco = tmp_path / "coco"
    run(studio, "export", "--project", str(number), "--format", "coco", "--out", str(coco))
    instances = json.loads((coco / "result.json").read_text(encoding="utf-8"))["annotations"]
    assert sorted(len(one["segmentation"]) for one in instances) == [1, 2]

    files = ["--json", str(tmp_path / "all.json"), "--report", str(tmp_path / "page")]
    done = run(studio, "evaluate", "--project", str(number), "--backbone", "color", "--device", "cpu", *files)
    figures = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert figures["title"] == "evaluated"
    assert set(figures["backbones"][0]["samples"]) == {
        f"task {parts}, Vehicle 1",
        f"task {edited}, Person 1",
    }
    team = figures["team"]
    assert (team["objects"], team["objects_that_tell"], team["clicks_per_object"]) == (2, 2, 1.5)
    assert team["share_edited"] == 0.5
    assert team["seconds_per_object"] > 0
    assert "50% were edited afterwards" in done.stdout
    assert (tmp_path / "page" / "color" / "worst.png").is_file()
    assert mask_of(stored[parts]).sum() > mask_of(stored[edited]).sum()
