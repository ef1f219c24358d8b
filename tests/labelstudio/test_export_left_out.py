"""What an export leaves out is told, and what it cannot do ends with status 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from export_projects import (
    FORMATS,
    POINTS,
    SHAPE,
    SHIPPED,
    annotate,
    config,
    export,
    output,
    plate,
    point,
    prompt_box,
    ring,
)
from exported_files import READERS, drawn, iou, region
from fake_label_studio import FakeLabelStudio


def test_skipped_annotations_and_drafts_are_left_out_and_told(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["old/brush"])
    task = studio.add_task(1, *drawn("brush", plate(), "Person"), image="a.jpg")
    annotate(studio, task, *drawn("brush", ring(), "Vehicle"), was_cancelled=True)
    studio.add_task(1, *drawn("brush", ring(), "Vehicle"), image="b.jpg", drafts=True)
    studio.add_task(1, image="c.jpg")
    status, printed = export(studio, "yolo", tmp_path / "out")
    assert status == 0
    assert "1 skipped annotations left out" in printed
    assert "1 tasks left out whose drafts were not submitted" in printed
    assert set(READERS["yolo"](tmp_path / "out", SHAPE)) == {("a", "Person")}


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([], "project 1 has no task with an annotation"),
        ([[]], "project 1 has no task with an annotation"),
        ([[point("a"), point("b"), prompt_box()]], "all 3 saved regions of project 1 are prompts"),
    ],
)
@pytest.mark.parametrize("format", [*FORMATS, "json"])
def test_where_nothing_would_be_left_no_file_is_written(
    format: str, tasks: list[Any], reason: str, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["old/brush"])
    for regions in tasks:
        studio.add_task(1, *regions)
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 1
    assert reason in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("smart", "status"), [(' smart="true"', 1), (' smart="false"', 0), ("", 0)])
def test_key_points_alone_are_prompts_only_where_they_say_so(
    smart: str, status: int, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    names = '<Label value="Person" model_index="0"/><Label value="Vehicle" model_index="1"/>'
    alone = config(f'<KeyPointLabels name="keypoint" toName="image"{smart}>{names}</KeyPointLabels>')
    studio.connect("http://backend:9090", config=alone)
    studio.add_task(1, point("a"))
    found, printed = export(studio, "coco", tmp_path / "out")
    assert found == status, printed
    if status == 0:
        assert "pose data set" in printed
        (pose,) = json.loads((tmp_path / "out" / "result.json").read_text())["annotations"]
        assert pose["keypoints"] == [64, 60, 2, 0, 0, 0]


def test_key_points_that_are_work_stay_with_their_rectangles(studio: FakeLabelStudio, tmp_path: Path) -> None:
    eyes = (
        '<KeyPointLabels name="keypoint" toName="image" smart="false"><Label value="Eye" model_index="0"/>'
        "</KeyPointLabels>"
    )
    studio.connect("http://backend:9090", config=config(output("RectangleLabels", "rectangle"), eyes))
    eye = point("e", parentID="r")
    eye["value"]["keypointlabels"] = ["Eye"]
    studio.add_task(1, prompt_box(), eye, image="a.jpg")
    status, printed = export(studio, "yolo", tmp_path / "out")
    assert status == 0, printed
    row = (tmp_path / "out" / "labels" / "a.txt").read_text().split()
    assert row[0] == "0"
    assert [float(number) for number in row[5:]] == [0.4, 0.5, 2]


def test_objects_that_the_converter_leaves_out_are_counted_and_the_status_is_1(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    eyes = '<KeyPointLabels name="keypoint" toName="image" smart="false"><Label value="Eye" model_index="0"/>'
    pose = config(output("RectangleLabels", "rectangle"), f"{eyes}</KeyPointLabels>")
    studio.connect("http://backend:9090", config=pose)
    studio.add_task(1, prompt_box(), point("of nobody"), image="a.jpg")
    status, printed = export(studio, "yolo", tmp_path / "out")
    assert status == 1
    assert "the files hold 1 objects of 1 objects and 1 key points" in printed


def test_where_the_converter_fails_its_reason_is_told_and_no_file_is_left(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    work = POINTS.replace("true", "false")
    studio.connect("http://backend:9090", config=config(output("RectangleLabels", "rectangle"), work))
    studio.add_task(1, prompt_box(), point())
    (tmp_path / "empty").mkdir()
    for out in ("new", "empty"):
        status, printed = export(studio, "coco", tmp_path / out)
        assert status == 1
        assert "the SDK's converter failed: No keypoint order found" in printed
        assert "model_index" in printed
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("format", ["voc", "png"])
def test_key_points_in_a_format_without_them_are_told(format: str, studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.connect(
        "http://backend:9090", config=config(output("RectangleLabels", "rectangle"), POINTS.replace("true", "false"))
    )
    studio.add_task(1, prompt_box(), point(), image="a.jpg")
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 1
    assert f"{format} holds no key points: export them as coco, yolo or json" in printed
    assert len(READERS[format](tmp_path / "out", SHAPE)) == 1, "the rectangle is exported all the same"


def test_a_smart_rectangle_is_work_where_masks_go_to_it(studio: FakeLabelStudio, tmp_path: Path) -> None:
    smart = config(output("RectangleLabels", "rectangle", smart="true"), POINTS)
    studio.connect("http://backend:9090", config=smart)
    studio.add_task(1, prompt_box(), point(), image="a.jpg")
    status, printed = export(studio, "voc", tmp_path / "out")
    assert status == 0
    assert '1 saved prompts left out (1 of <KeyPointLabels name="keypoint">)' in printed
    assert iou(READERS["voc"](tmp_path / "out", SHAPE)["a", "Person"], plate()) == 1.0


def test_a_config_that_cannot_answer_clicks_is_exported(studio: FakeLabelStudio, tmp_path: Path) -> None:
    fixed = config(output("BrushLabels"), POINTS, image='<Image name="image" value="https://images.example/a.jpg"/>')
    studio.connect("http://backend:9090", config=fixed)
    studio.add_task(1, *drawn("brush", plate(), "Person"), point())
    status, printed = export(studio, "coco", tmp_path / "out")
    assert (status, "1 saved prompts left out" in printed) == (0, True)
    (mask,) = READERS["coco"](tmp_path / "out", SHAPE).values()
    assert iou(mask, plate()) == 1.0


def test_answers_beside_the_masks_are_no_classes_and_are_told(studio: FakeLabelStudio, tmp_path: Path) -> None:
    choices = '<Choices name="quality" toName="image"><Choice value="Blurred"/></Choices>'
    studio.connect("http://backend:9090", config=config(output("BrushLabels"), POINTS, choices))
    answer = {"id": "c", "type": "choices", "from_name": "quality", "to_name": "image"}
    about_mask = {"original_width": SHAPE[1], "original_height": SHAPE[0], "value": {"choices": ["Blurred"]}}
    studio.add_task(1, {**answer, "value": {"choices": ["Blurred"]}}, *drawn("brush", plate(), "Person", name="m"))
    studio.tasks[0]["annotations"][0]["result"].append({**answer, **about_mask, "id": "m"})
    status, printed = export(studio, "yolo", tmp_path / "out")
    assert status == 0
    assert "2 answers that are not drawn" in printed
    assert (tmp_path / "out" / "classes.txt").read_text().split() == ["Person", "Vehicle"]


def test_regions_without_a_label_are_a_class_of_their_own(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.connect("http://backend:9090", config=config('<Brush name="mask" toName="image" smart="false"/>', POINTS))
    (bare,) = drawn("brush", plate())
    studio.add_task(1, {**bare, "type": "brush"}, image="a.jpg")
    status, printed = export(studio, "coco", tmp_path / "out")
    assert (status, '1 regions have no label and are of class "no_label"' in printed) == (0, True)
    assert set(READERS["coco"](tmp_path / "out", SHAPE)) == {("a", "no_label")}


def test_a_region_that_cannot_be_read_is_named_and_the_others_are_exported(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["old/brush"])
    (broken,) = drawn("brush", plate()[:, :-1], "Vehicle", name="broken")
    vector = region("vector", {"vertices": []}, ["Vehicle"], "path", shape=SHAPE)
    studio.add_task(1, *drawn("brush", plate(), "Person"), {**broken, "original_width": SHAPE[1]}, vector)
    status, printed = export(studio, "coco", tmp_path / "out")
    assert status == 1
    assert "task 1: region path (vectorlabels): only JSON can hold regions of this type; region broken" in printed
    assert "2 regions could not be exported" in printed
    assert {label for _, label in READERS["coco"](tmp_path / "out", SHAPE)} == {"Person"}


def test_a_mask_saved_a_second_time_as_key_points_keeps_its_first(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["old/brush"])
    (mask,) = drawn("brush", plate(), "Person", name="m")
    twin = {**mask, "type": "keypointlabels", "from_name": "keypoint"}
    studio.add_task(1, mask, twin, image="a.jpg")
    assert export(studio, "png", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_a_folder_with_files_is_not_written_to(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["old/brush"])
    studio.add_task(1, *drawn("brush", plate(), "Person"))
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        status, printed = export(studio, "coco", out)
        assert status == 1
        assert "already exists: name a new or empty folder" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_project_that_is_not_there_is_told(studio: FakeLabelStudio, tmp_path: Path) -> None:
    status, printed = export(studio, "coco", tmp_path / "out", 7)
    assert status == 1
    assert "404 for GET /api/projects/7/" in printed
