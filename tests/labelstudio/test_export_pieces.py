"""A mask of several parts that was returned as polygons is exported as one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from export_projects import FORMATS, SHAPE, SHIPPED, export, plate, ring
from exported_files import READERS, box_of, drawn, iou
from fake_label_studio import FakeLabelStudio

from m2n2_backend.labelstudio.contract.response import piece_id


def returned(first: str = "first") -> list[dict[str, Any]]:
    """The two parts of a mask, with the ids and the parents that the backend gives them."""
    one, other = drawn("polygon", ring(), "Person")
    return [{**one, "id": first}, {**other, "id": piece_id(first, 1), "parentID": first}]


def counted(studio: FakeLabelStudio, format: str, out: Path, *saved: dict[str, Any]) -> str:
    studio.connect("http://backend:9090", config=SHIPPED["polygon"])
    studio.add_task(1, *saved, image="a.jpg")
    status, printed = export(studio, format, out)
    assert status == 0, printed
    return printed.strip().splitlines()[-1]


@pytest.mark.parametrize("format", FORMATS)
def test_the_parts_of_one_mask_are_one_object_in_every_format(
    format: str, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    vehicle = drawn("polygon", plate(), "Vehicle", name="v")
    assert ": 2 objects on 1 images" in counted(studio, format, tmp_path / "out", *vehicle, *returned())
    found = READERS[format](tmp_path / "out", SHAPE)
    for label, mask in (("Person", ring()), ("Vehicle", plate())):
        assert iou(found["a", label], box_of(mask) if format == "voc" else mask) > 0.97


def test_coco_holds_the_outline_of_each_part_and_the_box_and_area_of_all(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    counted(studio, "coco", tmp_path / "out", *returned())
    (instance,) = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["annotations"]
    assert len(instance["segmentation"]) == 2
    assert instance["area"] == pytest.approx(ring().sum(), rel=0.03)
    x, y, width, height = instance["bbox"]
    assert (x, y, x + width, y + height) == pytest.approx((16, 16, 150, 105), abs=1)


@pytest.mark.parametrize("format", ["coco", "png"])
def test_parts_stay_together_without_a_parent_and_without_the_first_part(
    format: str, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    first, second = returned()
    third = {**drawn("polygon", plate(), "Person")[0], "id": piece_id("first", 2), "parentID": "first"}
    assert ": 1 objects" in counted(studio, format, tmp_path / "out", second, third)
    loose = {name: value for name, value in second.items() if name != "parentID"}
    studio.tasks[0]["annotations"][0]["result"] = [loose, first]
    status, printed = export(studio, format, tmp_path / "loose")
    assert (status, ": 1 objects" in printed) == (0, True)


def test_polygons_that_a_user_drew_or_gave_another_label_stay_objects_of_their_own(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    first, second = returned()
    wheel = {**drawn("polygon", plate(), "Person", name="wheel")[0], "parentID": "first"}
    other = {**second, "value": {**second["value"], "polygonlabels": ["Vehicle"]}}
    assert ": 3 objects" in counted(studio, "coco", tmp_path / "out", first, other, wheel)


def test_imported_polygons_without_ids_stay_objects_of_their_own(studio: FakeLabelStudio, tmp_path: Path) -> None:
    loose = [{key: value for key, value in one.items() if key not in ("id", "parentID")} for one in returned()]
    assert ": 2 objects" in counted(studio, "coco", tmp_path / "out", *loose)


def test_a_part_without_an_area_does_not_take_the_others_with_it(studio: FakeLabelStudio, tmp_path: Path) -> None:
    first, second = returned()
    flat = {**second, "value": {**second["value"], "points": [[10, 10], [20, 20]]}}
    assert ": 1 objects" in counted(studio, "yolo", tmp_path / "out", first, flat)
