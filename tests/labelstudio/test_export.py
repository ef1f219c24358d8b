"""What annotators saved comes out of every format again, class by class, and the prompts beside it do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_projects import (
    CONFIGS,
    FORMATS,
    OUTPUTS,
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
from exported_files import READERS, accepted, box_of, drawn, iou, region, table, with_labels_control
from fake_label_studio import FakeLabelStudio
from label_studio_fakes import labels


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_two_classes_come_out_as_they_were_saved(
    kind: str, format: str, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    studio.connect("http://backend:9090", config=CONFIGS[kind])
    shape = "brush" if kind == "shapes" else kind.removeprefix("old/")
    saved = [*drawn(shape, ring(), "Person", name="a"), *drawn(shape, plate(), "Vehicle", name="b")]
    prompts = [point()] if kind == "rectangle" else [point(), prompt_box()]
    if kind in ("shapes", *OUTPUTS):
        saved = with_labels_control(saved) if kind == "shapes" else accepted(saved)
        prompts = with_labels_control(prompts)
    studio.add_task(1, *saved, *prompts, image="/data/upload/1/street 7.jpg")

    status, printed = export(studio, format, tmp_path / "out")
    assert status == 0, printed
    assert f"{1 if kind == 'rectangle' else 2} saved prompts left out" in printed

    found = READERS[format](tmp_path / "out", SHAPE)
    expected = {("street 7", "Person"): ring(), ("street 7", "Vehicle"): plate()}
    assert set(found) == set(expected)
    exact = shape != "polygon" and format != "yolo"
    for key, mask in expected.items():
        wanted = mask
        if format == "voc" and shape == "polygon" and key[1] == "Person":
            wanted = found[key]  # one box for each part, as each is a region of its own
        elif format == "voc" or kind == "rectangle":
            wanted = box_of(mask)
        assert iou(found[key], wanted) >= (1.0 if exact else 0.97)


def test_json_is_the_project_without_the_saved_prompts(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["shapes"])
    mask = with_labels_control(drawn("brush", plate(), "Person", name="a"))
    choice = {"id": "c", "type": "choices", "from_name": "quality", "to_name": "image", "value": {"choices": ["x"]}}
    relations = [{"type": "relation", "from_id": "a", "to_id": end, "direction": "right"} for end in ("a", "p")]
    prompts = with_labels_control([point("p")])
    task = studio.add_task(1, *mask, *prompts, choice, *relations)
    studio.tasks[0]["drafts"] = [{"id": 9, "result": [*prompts, choice]}]
    studio.tasks[0]["predictions"] = [{"id": 8, "result": prompts}]
    before = json.loads(json.dumps(studio.tasks[0]))

    status, printed = export(studio, "json", tmp_path / "out")
    assert (status, "2 saved prompts left out" in printed) == (0, True)
    (exported,) = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert exported["id"] == task
    assert exported["data"] == before["data"]
    assert exported["annotations"][0]["result"] == [*mask, choice, relations[0]]
    assert exported["drafts"][0]["result"] == [choice]
    assert exported["predictions"] == before["predictions"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_region_with_two_labels_is_an_object_of_both(format: str, studio: FakeLabelStudio, tmp_path: Path) -> None:
    several = config(output("BrushLabels", choice="multiple"), POINTS)
    studio.connect("http://backend:9090", config=several)
    studio.add_task(1, *drawn("brush", plate(), "Person", "Vehicle"), image="a.jpg")
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 0, printed
    found = READERS[format](tmp_path / "out", SHAPE)
    assert {key: iou(mask, plate()) for key, mask in found.items()} == {("a", "Person"): 1.0, ("a", "Vehicle"): 1.0}


@pytest.mark.parametrize("format", FORMATS)
def test_labels_may_have_spaces_slashes_and_any_letters(format: str, studio: FakeLabelStudio, tmp_path: Path) -> None:
    names = ("traffic light", "Fußgänger", "車", "a/b", "a\\b", "a_b")
    studio.connect("http://backend:9090", config=config(output("BrushLabels", names=labels(*names)), POINTS))
    studio.add_task(1, *(one for name in names for one in drawn("brush", plate(), name, name=name)), image="i.jpg")
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 0, printed
    found = READERS[format](tmp_path / "out", SHAPE)
    safe = {"a/b": "a-b", "a\\b": "a-b~"} if format == "png" else {}
    assert {label for _, label in found} == {safe.get(name, name) for name in names}


@pytest.mark.parametrize("format", FORMATS)
def test_each_page_of_a_task_is_an_image_of_its_own(format: str, studio: FakeLabelStudio, tmp_path: Path) -> None:
    pages = config(output("BrushLabels"), POINTS, image='<Image name="image" valueList="$pages"/>')
    studio.connect("http://backend:9090", config=pages)
    first, second = drawn("brush", plate(), "Person", name="a"), drawn("brush", ring(), "Person", name="b")
    saved = [{**first[0], "item_index": 0}, {**second[0], "item_index": 1}, point(item_index=1)]
    studio.add_task(1, *saved, pages=["/x/one.jpg", "/x/two.jpg", "/x/blank.jpg"])
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 0, printed
    assert [(row["name"], row["page"]) for row in table(tmp_path / "out")] == [
        ("one.jpg", "0"),
        ("two.jpg", "1"),
        ("blank.jpg", "2"),
    ]
    if format == "png":
        assert len(list((tmp_path / "out").glob("task-1-image-*.png"))) == 2
    else:
        wanted = {("one", "Person"): plate(), ("two", "Person"): ring()}
        found = READERS[format](tmp_path / "out", SHAPE)
        assert set(found) == set(wanted)
        for key, mask in wanted.items():
            assert iou(found[key], box_of(mask) if format == "voc" else mask) >= 0.97
    assert ("1 images without a region left out" in printed) == (format == "coco")


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_each_image_of_a_task_has_its_own_regions(format: str, studio: FakeLabelStudio, tmp_path: Path) -> None:
    images = "".join(f'<Image name="{side}" value="${side}"/>' for side in ("left", "right", "reference"))
    both = config(
        output("BrushLabels", "mask", toName="left"),
        output("BrushLabels", "other", toName="right"),
        '<KeyPointLabels name="keypoint" toName="left,right"/>',
        image=images,
    )
    studio.connect("http://backend:9090", config=both)
    (one,) = drawn("brush", plate(), "Person", name="a", to_name="left")
    (two,) = drawn("brush", ring(), "Person", name="b", to_name="right", from_name="other")
    studio.add_task(1, one, two, point(to_name="right"), left="/a/l.jpg", right="/a/r.jpg", reference="/a/x.jpg")
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 0, printed
    found = READERS[format](tmp_path / "out", SHAPE)
    assert set(found) == {("l", "Person"), ("r", "Person")}
    assert iou(found["r", "Person"], box_of(ring()) if format == "voc" else ring()) >= 0.97
    assert [row["name"] for row in table(tmp_path / "out")] == ["l.jpg", "r.jpg"], "nobody draws on the reference"


@pytest.mark.parametrize("format", FORMATS)
def test_images_of_one_name_and_annotations_of_one_image_do_not_overwrite_each_other(
    format: str, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["old/brush"])
    task = studio.add_task(1, *drawn("brush", plate(), "Person"), image="https://images.example/1/a.jpg?token=secret")
    annotate(studio, task, *drawn("brush", ring(), "Person"))
    studio.add_task(1, *drawn("brush", ~plate(), "Vehicle"), image="/data/local-files/?d=2/a.png")
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 0, printed
    assert "1 tasks have several annotations" in printed
    found = READERS[format](tmp_path / "out", SHAPE)
    if format in ("yolo", "voc"):
        wanted = {("a", "Person"): ring(), ("a-annotation-1", "Person"): plate(), ("a-task-2", "Vehicle"): ~plate()}
        assert set(found) == set(wanted)
        for key, mask in wanted.items():
            assert iou(found[key], box_of(mask) if format == "voc" else mask) >= 0.97
    elif format == "coco":
        assert iou(found["a", "Person"], ring() | plate()) == 1.0
        assert iou(found["a-task-2", "Vehicle"], ~plate()) == 1.0
        assert [row["name"] for row in table(tmp_path / "out")] == ["a.jpg", "a.jpg", "a-task-2.png"]
    else:
        assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_an_annotation_without_a_region_is_an_empty_file_of_yolo(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["old/brush"])
    studio.add_task(1, *drawn("brush", plate(), "Person"), image="a.jpg")
    annotate(studio, studio.add_task(1, image="b.jpg"))
    assert export(studio, "yolo", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "labels" / "b.txt").read_text() == ""


def test_rectangles_are_boxes_of_yolo_and_polygons_beside_masks(studio: FakeLabelStudio, tmp_path: Path) -> None:
    both = config(output("BrushLabels"), output("RectangleLabels", "rectangle"), POINTS)
    studio.connect("http://backend:9090", config=config(output("RectangleLabels", "rectangle"), POINTS))
    studio.connect("http://backend:9090", config=both)
    for project in (1, 2):
        studio.add_task(project, prompt_box(), image="a.jpg")
        assert export(studio, "yolo", tmp_path / str(project), project)[0] == 0
        row = (tmp_path / str(project) / "labels" / "a.txt").read_text().split()
        assert len(row) == {1: 5, 2: 9}[project], "one file must not hold both, or YOLO's tools misread the boxes"
        assert iou(READERS["yolo"](tmp_path / str(project), SHAPE)["a", "Person"], plate()) == 1.0


@pytest.mark.parametrize("format", FORMATS)
def test_turned_rectangles_and_ellipses_keep_their_pixels(
    format: str, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    shapes = config(output("RectangleLabels", "rectangle"), output("EllipseLabels", "ellipse"), POINTS)
    studio.connect("http://backend:9090", config=shapes)
    square = {"x": 50.0, "y": 25.0, "width": 25.0, "height": 100 / 3, "rotation": 45}  # 40 pixels on each side
    turned = region("rectangle", square, ["Person"], "r", shape=SHAPE, from_name="rectangle")
    round_one = {"x": 50.0, "y": 50.0, "radiusX": 20.0, "radiusY": 25.0, "rotation": 0}
    ellipse = region("ellipse", round_one, ["Vehicle"], "e", shape=SHAPE, from_name="ellipse")
    studio.add_task(1, turned, ellipse, image="a.jpg")
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 0, printed
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    diamond = abs(x - 80) + abs(y - 30 - 40 / 2**0.5) < 40 / 2**0.5
    wanted = {"Person": diamond, "Vehicle": ((x - 80) / 32) ** 2 + ((y - 60) / 30) ** 2 < 1}
    for label, mask in wanted.items():
        found = READERS[format](tmp_path / "out", SHAPE)["a", label]
        assert iou(found, box_of(mask) if format == "voc" else mask) >= 0.96


def test_a_project_of_several_pages_of_tasks_is_exported_whole(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.connect("http://backend:9090", config=SHIPPED["old/polygon"])
    for number in range(120):
        studio.add_task(1, *drawn("polygon", plate(), "Person"), point(), image=f"/x/{number}.jpg")
    status, printed = export(studio, "yolo", tmp_path / "out")
    assert status == 0
    assert "120 objects on 120 images, 120 saved prompts left out" in printed
    assert set(READERS["yolo"](tmp_path / "out", SHAPE)) == {(str(number), "Person") for number in range(120)}


def test_images_of_a_repeater_and_nested_data_keep_their_names_and_regions(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    inner = (output("BrushLabels", "mask_{{idx}}") + POINTS.replace('"keypoint"', '"point_{{idx}}"')).replace(
        '"image"', '"im_{{idx}}"'
    )
    repeated = f'<Repeater on="$list"><Image name="im_{{{{idx}}}}" value="$list[{{{{idx}}}}].url"/>{inner}</Repeater>'
    studio.connect("http://backend:9090", config=f"<View>{repeated}</View>")
    saved = []
    for number, mask in enumerate((ring(), plate())):
        at = {"from_name": f"mask_{number}", "to_name": f"im_{number}"}
        saved += drawn("brush", mask, "Person", name=f"m{number}", **at)
        saved.append(point(f"p{number}", from_name=f"point_{number}", to_name=f"im_{number}"))
    studio.add_task(1, *saved, list=[{"url": "/data/upload/1/one.jpg"}, {"url": "/data/upload/1/two.jpg"}])
    status, printed = export(studio, "coco", tmp_path / "out")
    assert (status, "2 saved prompts left out" in printed) == (0, True)
    found = READERS["coco"](tmp_path / "out", SHAPE)
    assert {key: iou(mask, plate() if key[0] == "two" else ring()) for key, mask in found.items()} == {
        ("one", "Person"): 1.0,
        ("two", "Person"): 1.0,
    }


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("own", [True, False])
def test_labels_of_several_controls_on_one_region_all_come_out(
    own: bool, format: str, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    groups = {"kind": "Tree", "state": "Wet"}
    held = [f'<Labels name="{name}" toName="image">{labels(label)}</Labels>' for name, label in groups.items()]
    brush = output("BrushLabels") if own else '<Brush name="mask" toName="image" smart="false"/>'
    studio.connect("http://backend:9090", config=config(brush, *held, POINTS))
    (mask,) = drawn("brush", plate(), "Person", name="m")
    value = {key: part for key, part in mask["value"].items() if key != "brushlabels"}
    first = mask if own else {**mask, "type": "brush", "value": value}
    twins = [
        {**mask, "type": "labels", "from_name": name, "value": {**value, "labels": [label]}}
        for name, label in groups.items()
    ]
    studio.add_task(1, first, *twins, image="a.jpg")
    status, printed = export(studio, format, tmp_path / "out")
    assert status == 0, printed
    found = {label for _, label in READERS[format](tmp_path / "out", SHAPE)}
    assert found == {"Tree", "Wet"} | ({"Person"} if own else set())


def test_labels_that_count_with_a_repeater_come_out(studio: FakeLabelStudio, tmp_path: Path) -> None:
    label = '<Label value="Object {{idx}}" hint="in {{idx}}"/>'
    inner = f'<BrushLabels name="b_{{{{idx}}}}" toName="im_{{{{idx}}}}" smart="false">{label}</BrushLabels>'
    image = '<Image name="im_{{idx}}" value="$list[{{idx}}].url"/>'
    studio.connect("http://backend:9090", config=f'<View><Repeater on="$list">{image}{inner}</Repeater></View>')
    saved = drawn("brush", plate(), "Object 0", name="m", from_name="b_0", to_name="im_0")
    studio.add_task(1, *saved, list=[{"url": "/data/upload/1/one.jpg"}])
    status, printed = export(studio, "coco", tmp_path / "out")
    assert status == 0, printed
    assert set(READERS["coco"](tmp_path / "out", SHAPE)) == {("one", "Object 0")}


def test_boxes_of_a_control_that_does_not_say_that_it_is_smart_are_work(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    boxes = f'<RectangleLabels name="box" toName="image">{labels("Person")}</RectangleLabels>'
    studio.connect("http://backend:9090", config=config(boxes, output("BrushLabels"), POINTS))
    (mask,) = drawn("brush", ring(), "Vehicle", name="m")
    mask |= {side: float(mask[side]) for side in ("original_width", "original_height")}
    studio.add_task(1, *drawn("rectangle", plate(), "Person", name="r", from_name="box"), mask, image="a.jpg")
    status, printed = export(studio, "coco", tmp_path / "out")
    assert status == 0, printed
    assert {label for _, label in READERS["coco"](tmp_path / "out", SHAPE)} == {"Person", "Vehicle"}
