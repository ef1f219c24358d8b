"""``m2n2-backend export`` of what was submitted in a real Label Studio, and what its own button gives."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from editor import Editor, iou
from exported_files import READERS, Mask, accepted, box_of, drawn, region, table, with_labels_control
from pictures import DISC, PLATE, SIZE, disc, mask_of, plate, save_scene, scene
from rig import Backend, Studio
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.commands.studio.project import create_project, upload

SHAPE = (SIZE[1], SIZE[0])
LABELS = '<Label value="Person"/><Label value="Vehicle"/>'
CONFIG = f"""<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image" smart="false" m2n2="output">{LABELS}</BrushLabels>
  <KeyPointLabels name="keypoint" toName="image" smart="true">{LABELS}</KeyPointLabels>
  <RectangleLabels name="rectangle" toName="image" smart="true">{LABELS}</RectangleLabels>
  <PolygonLabels name="polygon" toName="image" smart="false">{LABELS}</PolygonLabels>
  <BitmaskLabels name="bitmask" toName="image" smart="false">{LABELS}</BitmaskLabels>
  <RectangleLabels name="box" toName="image" smart="false">{LABELS}</RectangleLabels>
</View>"""
CONTROLS = {"brush": "mask", "polygon": "polygon", "bitmask": "bitmask", "rectangle": "box"}


def masks() -> dict[str, Mask]:
    """Masks of two classes; the disc has a hole."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return {"Person": disc() & (np.hypot(x - DISC[0], y - DISC[1]) > 30), "Vehicle": plate()}


def prompt(label: str = "Person") -> dict[str, Any]:
    value = {"x": 30.0, "y": 50.0, "width": 0.3}
    return region("keypoint", value, [label], "p", shape=SHAPE, from_name="keypoint")


def submit(studio: Studio, task: int, *result: dict[str, Any]) -> None:
    studio.api.call("POST", f"/api/tasks/{task}/annotations/", {"result": list(result)})


def export(studio: Studio, number: int, format: str, out: Path) -> str:
    """Run the export; returns the last line that it printed."""
    environment = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.account.token}
    arguments = ["export", "--project", str(number), "--format", format, "--out", str(out)]
    done = CliRunner(env=environment).invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_two_classes_of_every_kind_come_out_of_every_format_as_they_were_submitted(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    number = create_project(studio.api, "exported", CONFIG)
    names = ["clicked", *CONTROLS]
    for name in names:
        scene().save(tmp_path / f"{name}.jpg", quality=95)
    upload(studio.api, number, [tmp_path / f"{name}.jpg" for name in names])
    studio.api.connect_backend(number, backend.url)
    clicked, *tasks = studio.tasks(number)
    editor.open(number, clicked)
    editor.click((PLATE[0] + PLATE[2]) // 2, (PLATE[1] + PLATE[3]) // 2, "Vehicle")
    editor.accept()
    editor.click(DISC[0], DISC[1], "Person")
    editor.accept_on_canvas()  # which leaves the key point where it is
    editor.submit()
    for task, (kind, control) in zip(tasks, CONTROLS.items(), strict=True):
        regions = [
            one for label, mask in masks().items() for one in drawn(kind, mask, label, name=label, from_name=control)
        ]
        submit(studio, task, *regions, prompt())
    (annotation,) = studio.api.call("GET", f"/api/tasks/{clicked}/annotations")
    stored = [one for one in annotation["result"] if one["type"] == "brushlabels"]
    prompts = len(annotation["result"]) - len(stored) + len(CONTROLS)
    assert prompts > len(CONTROLS)
    submitted = {(name, label): mask for name in names[1:] for label, mask in masks().items()}
    for label, mask in masks().items():
        shown = mask_of([one for one in stored if one["value"]["brushlabels"] == [label]])
        assert iou(shown, mask | disc() if label == "Person" else mask) > 0.95
        submitted["clicked", label] = shown

    for format, read in READERS.items():
        told = export(studio, number, format, tmp_path / format)
        assert told.endswith(f"10 objects on 5 images, {prompts} saved prompts left out")
        found = {
            (image.partition("-")[2], label): mask for (image, label), mask in read(tmp_path / format, SHAPE).items()
        }
        assert set(found) == set(submitted)
        for key, mask in submitted.items():
            wanted = box_of(mask) if format == "voc" or key[0] == "rectangle" else mask
            exact = format != "yolo" and key[0] in ("clicked", "brush", "bitmask")
            assert iou(found[key], wanted) >= (1.0 if exact else 0.97), (format, key)
        assert [row["task"] for row in table(tmp_path / format)] == [str(task) for task in studio.tasks(number)]

    export(studio, number, "json", tmp_path / "json")
    exported = json.loads((tmp_path / "json" / "result.json").read_text(encoding="utf-8"))
    assert [task["id"] for task in exported] == studio.tasks(number)
    assert exported[0]["annotations"][0]["result"] == stored
    assert not any(one["from_name"] == "keypoint" for task in exported for one in task["annotations"][0]["result"])


class Own:
    """Label Studio's own export of a project, requested as by its button."""

    def __init__(self, studio: Studio, number: int, format: str) -> None:
        query = {"exportType": format}
        token = {"Authorization": f"Token {studio.account.token}"}
        answer = httpx.get(f"{studio.url}/api/projects/{number}/export", params=query, headers=token, timeout=60)
        self.status = answer.status_code
        self.files: dict[str, bytes] = {}
        if answer.status_code == 200:
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                self.files = {name: archive.read(name) for name in archive.namelist()}

    def named(self, ending: str) -> list[bytes]:
        return [content for name, content in self.files.items() if name.endswith(ending)]

    def objects(self) -> list[tuple[str, float]]:
        """Class and area of each."""
        (text,) = [content for name, content in self.files.items() if name.startswith("result")]
        data = json.loads(text)
        names = {one["id"]: one["name"] for one in data["categories"]}
        return [(names[one["category_id"]], one["area"]) for one in data["annotations"]]

    def classes(self) -> list[str]:
        return [name for name, _ in self.objects()]


OUTPUTS = ("brush", "bitmask", "polygon")


@pytest.mark.parametrize("config", [*OUTPUTS, "shapes", *(f"old/{output}" for output in OUTPUTS)])
def test_label_studios_own_export_of_the_shipped_configs_is_as_the_readme_says(
    config: str, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    number, (task,) = studio.project(f"own export {config}", config, [save_scene(tmp_path)], backend.url)
    is_old, kind = config.startswith("old/"), "brush" if config == "shapes" else config.removeprefix("old/")
    regions = [one for label, mask in masks().items() for one in drawn(kind, mask, label, name=label)]
    stored = list if is_old else with_labels_control if config == "shapes" else accepted
    submit(studio, task, *stored(regions))

    assert Own(studio, number, "COCO").classes() == (["default"] * 2 if config == "old/polygon" else [])
    assert Own(studio, number, "YOLO").named("scene.txt") == [b""]
    voc = Own(studio, number, "VOC")
    assert voc.status == (200 if is_old else 500)
    assert not any(b"<object>" in text for text in voc.named(".xml"))

    offered = studio.api.call("GET", f"/api/projects/{number}/export/formats")
    enabled = {one["name"] for one in offered if not one.get("disabled")}
    brush = {"BRUSH_TO_COCO", "BRUSH_TO_PNG"}
    assert brush & enabled == (brush if kind == "brush" else set())
    if kind == "brush":
        outlined = Own(studio, number, "BRUSH_TO_COCO")
        assert outlined.classes() == (["Person", "Vehicle"] if is_old else [])
        if is_old:
            assert outlined.objects()[0][1] > masks()["Person"].sum(), "it fills the hole"
        assert len(Own(studio, number, "BRUSH_TO_PNG").named(".png")) == 2

    submit(studio, task, *stored([*regions, prompt()]))
    assert Own(studio, number, "COCO").status == (500 if is_old else 200)
