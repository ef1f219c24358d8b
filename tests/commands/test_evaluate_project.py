"""``evaluate --project``: the accepted masks of a project become the truth, for one backbone or several."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_files import Mask, drawn, region
from fake_backbone import scene
from fake_label_studio import LEGACY, FakeLabelStudio
from PIL import Image
from random_vits import save_family
from typer.testing import CliRunner, Result

from m2n2_backend.cli import app
from m2n2_backend.commands.evaluate.several import chosen_backbones
from m2n2_backend.errors import SettingsError
from m2n2_backend.labelstudio.accepted.masks import AcceptedMasks
from m2n2_backend.labelstudio.contract.response import piece_id
from m2n2_backend.resources import label_config
from m2n2_backend.settings import Settings, load_settings

SHAPE = (60, 90)


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    server = FakeLabelStudio()
    server.connect("http://backend:9090", config=label_config("brush").read_text(encoding="utf-8"))
    file = io.BytesIO()
    Image.fromarray(scene(*SHAPE)).save(file, "PNG")
    server.files["a.png"] = file.getvalue()
    yield server
    server.close()


def left() -> Mask:
    mask = scene(*SHAPE)[..., 0] > 120
    mask[:, SHAPE[1] // 2 :] = False
    return mask


def right() -> Mask:
    mask = scene(*SHAPE)[..., 0] > 120
    mask[:, : SHAPE[1] // 2] = False
    return mask


def settings_for(studio: FakeLabelStudio, **more: Any) -> Settings:
    names = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": LEGACY}
    return Settings(backbone="color", device="cpu", **names, **more)


def accepted(studio: FakeLabelStudio, folder: Path, limit: int | None = None) -> tuple[AcceptedMasks, list[str]]:
    """What was read, and why something was not."""
    found = AcceptedMasks(settings_for(studio), 1, folder, limit)
    return found, [outcome.detail for outcome in found.read() if outcome.detail]


def evaluate(studio: FakeLabelStudio | None, *arguments: str) -> Result:
    names = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": LEGACY} if studio else {}
    return CliRunner(env={**names, "COLUMNS": "250"}).invoke(app, ["evaluate", "--device", "cpu", *arguments])


def mask_in(path: Path) -> Mask:
    with Image.open(path) as image:
        return np.asarray(image) > 0


def clicked(prompts: int, mask: Mask, **more: Any) -> dict[str, Any]:
    """What the backend returns with a brush mask, and Label Studio keeps."""
    return {"meta": {"prompts": prompts, "area": int(mask.sum()), "parts": 1}, "score": 0.8, **more}


@pytest.mark.parametrize("kind", ["brush", "bitmask", "polygon", "rectangle"])
def test_regions_of_every_kind_are_objects_with_their_masks(
    kind: str, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    box = np.zeros(SHAPE, bool)
    box[10:40, 20:50] = True
    studio.projects[1] = label_config("polygon" if kind == "polygon" else "brush").read_text(encoding="utf-8")
    studio.add_task(1, *drawn(kind, box, "Person", from_name="box" if kind == "rectangle" else "mask"))
    found, faults = accepted(studio, tmp_path)
    assert not faults
    (one,) = found.objects
    assert one.name == "task 1, Person 1"
    assert np.array_equal(mask_in(one.mask), box)
    assert one.image.read_bytes() == studio.files["a.png"]


def test_the_newest_annotation_counts_and_the_ground_truth_before_it(studio: FakeLabelStudio, tmp_path: Path) -> None:
    task = studio.add_task(1, *drawn("brush", left(), "Person"))
    annotations = studio.tasks[0]["annotations"]
    annotations.append({"id": 50, "result": drawn("brush", right(), "Person"), "was_cancelled": False})
    annotations.append({"id": 60, "result": drawn("brush", left() | right(), "Person"), "was_cancelled": True})
    found, _ = accepted(studio, tmp_path)
    assert np.array_equal(mask_in(found.objects[0].mask), right())
    assert (task, len(found.objects)) == (1, 1)
    annotations[0]["ground_truth"] = True
    found, _ = accepted(studio, tmp_path)
    assert np.array_equal(mask_in(found.objects[0].mask), left())


def test_prompts_and_doubled_masks_are_not_objects_and_the_parts_of_a_mask_are_one(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    studio.projects[1] = label_config("polygon").read_text(encoding="utf-8")
    (one,), (two,) = drawn("polygon", left(), "Person", name="a"), drawn("polygon", right(), "Person")
    twice = {**one, "id": "again"}
    point = region("keypoint", {"x": 20, "y": 50}, ["Person"], "p", shape=SHAPE, from_name="keypoint")
    studio.add_task(1, one, {**two, "id": piece_id("a", 1), "parentID": "a"}, point)
    studio.add_task(1, one, twice, point)
    found, faults = accepted(studio, tmp_path)
    assert not faults
    assert [one.name for one in found.objects] == ["task 1, Person 1", "task 2, Person 1"]
    assert (mask_in(found.objects[0].mask) == (left() | right())).mean() > 0.97
    assert found.team.figures()["prompts_left_in_annotations"] == 2


def test_regions_without_ids_are_objects_each_and_two_labels_are_not_two_objects(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    studio.projects[1] = label_config("polygon").read_text(encoding="utf-8")
    imported = [*drawn("polygon", left(), "Person"), *drawn("polygon", right(), "Person")]
    (both,) = drawn("polygon", left() | right(), "Person", "Vehicle", name="both")[:1]
    studio.add_task(1, *({key: value for key, value in one.items() if key != "id"} for one in imported), both)
    found, faults = accepted(studio, tmp_path)
    assert not faults
    assert len(found.objects) == 2  # the third is the left one once more
    studio.tasks.clear()
    (other,) = drawn("polygon", ~left() & ~right(), "Person", "Vehicle", name="both")[:1]
    studio.add_task(1, other)
    found, _ = accepted(studio, tmp_path)
    assert len(found.objects) == 1


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.add_task(1, *drawn("brush", left(), "Person"), image="/data/upload/1/gone.png")
    (broken,) = drawn("brush", left(), "Person", name="broken")
    broken["value"]["rle"] = [1, 2, 3]
    studio.add_task(1, broken, *drawn("brush", right(), "Person"))
    (small,) = drawn("brush", left()[:50, :60], "Person")
    studio.add_task(1, small)
    studio.add_task(1)
    found, faults = accepted(studio, tmp_path)
    assert [one.name for one in found.objects] == ["task 2, Person 1"]
    assert len(faults) == 3
    assert "404" in faults[0]
    assert "region broken" in faults[1]
    assert "the image has 90x60 pixels, its regions were drawn on 60x50" in faults[2]


def test_a_limit_ends_the_reading(studio: FakeLabelStudio, tmp_path: Path) -> None:
    for _ in range(3):
        studio.add_task(1, *drawn("brush", left(), "Person", name="a"), *drawn("brush", right(), "Person", name="b"))
    found, _ = accepted(studio, tmp_path, limit=3)
    assert [one.name for one in found.objects] == ["task 1, Person 1", "task 1, Person 2", "task 2, Person 1"]


def test_the_annotations_tell_clicks_per_object_and_the_share_that_was_edited(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    grown = left()
    grown[:5] = True
    kept = drawn("brush", left(), "Person", name="a", **clicked(2, left()))
    edited = drawn("brush", grown, "Person", name="b", **clicked(5, left()))
    predicted = drawn("brush", right(), "Person", name="c", **clicked(2, right(), origin="prediction-changed"))
    by_hand = drawn("brush", ~left(), "Person", name="d")
    studio.add_task(1, *kept, *edited, *predicted, *by_hand)
    studio.tasks[0]["annotations"][0]["lead_time"] = 40.0
    found, _ = accepted(studio, tmp_path)
    figures = found.team.figures()
    assert (figures["objects"], figures["objects_that_tell"]) == (4, 3)
    assert figures["clicks_per_object"] == 3.0
    assert figures["share_edited"] == pytest.approx(2 / 3)
    assert figures["seconds_per_object"] == 10.0
    told = " ".join(found.team.sentences())
    assert "3.0 clicks or boxes per object, and 67% were edited afterwards" in told
    assert "1 objects do not tell it" in told


def test_a_part_that_was_deleted_is_an_edit(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.projects[1] = label_config("polygon").read_text(encoding="utf-8")
    area = {"area": int(left().sum())}
    (one,) = drawn("polygon", left(), "Person", meta={"prompts": 1, "parts": 2, **area})
    studio.add_task(1, one)
    found, _ = accepted(studio, tmp_path)
    assert found.team.figures()["share_edited"] == 1.0


def test_one_row_per_backbone_with_a_page_and_the_worst_objects_of_each(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    studio.add_task(1, *drawn("brush", left(), "Person", name="a", **clicked(2, left())))
    studio.add_task(1, *drawn("brush", right(), "Vehicle", name="b", **clicked(4, right())))
    studio.titles[1] = "cats [/old]"
    model, out = str(save_family("ViT", tmp_path / "vit")), tmp_path / "out"
    asked = ["--project", "1", "--backbone", "color", "--backbone", "vit", "--model", model, "--layers", "2"]
    files = ["--json", str(out / "all.json"), "--report", str(out / "page")]
    done = evaluate(studio, *asked, *files, "--grid", "12")
    assert done.exit_code == 0, done.output

    figures = json.loads((out / "all.json").read_text(encoding="utf-8"))
    assert (figures["project"], figures["title"], figures["method"]) == (1, "cats [/old]", "refined")
    color, vit = figures["backbones"]
    assert (color["asked"], vit["asked"]) == ("color", f"vit={model}")
    assert color["backbone"].startswith("color and texture only, grid 12")
    assert "layer 2 of 0 to 2, grid 12" in vit["backbone"]
    for result in (color, vit):
        assert (result["method"], result["n"]) == ("refined", 2)
        assert list(result["samples"]) == ["task 1, Person 1", "task 2, Vehicle 1"]
        assert result["peak_memory"]["process"] > 50_000_000
        assert f"{result['noc85']:.2f}" in done.stdout
    assert "project 1, cats [/old]: refined" in done.stdout
    assert "3.0 clicks or boxes per object, and 0% were edited afterwards" in done.stdout
    assert figures["team"]["clicks_per_object"] == 3.0

    page = (out / "page" / "index.html").read_text(encoding="utf-8")
    for line in page.splitlines():
        for part in line.split('"')[1:]:
            if part.endswith((".html", ".png")):
                assert (out / "page" / part).is_file()
    assert page.count("worst.png") == 2
    own = (out / "page" / "color" / "index.html").read_text(encoding="utf-8")
    assert "<h1>project 1, cats [/old]: refined, color and texture only, grid 12</h1>" in own
    assert "(published)" not in own


def test_a_backbone_that_fails_has_its_reason_in_its_row_and_the_others_are_measured(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    studio.add_task(1, *drawn("brush", left(), "Person"))
    model = str(save_family("ViT", tmp_path / "vit"))
    asked = ["--project", "1", "--backbone", f"vit={model}", "--backbone", "color", "--grid", "12", "--layers", "9"]
    done = evaluate(studio, *asked, "--json", str(tmp_path / "all.json"))
    assert done.exit_code == 1
    failed, color = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["backbones"]
    assert "has layers 0 to 2; asked for [9]" in failed["error"]
    assert color["n"] == 1
    assert "asked for" in done.stdout


def test_a_classic_method_has_one_row_under_its_own_name(studio: FakeLabelStudio, tmp_path: Path) -> None:
    studio.add_task(1, *drawn("brush", left(), "Person"))
    asked = ["--project", "1", "--method", "geodesic", "--backbone", "color", "--backbone", "sd2"]
    done = evaluate(studio, *asked, "--json", str(tmp_path / "all.json"))
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["backbones"]
    assert (row["asked"], row["method"], row["backbone"]) == ("geodesic", "geodesic", None)
    assert "project 1, project 1: geodesic" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--project", "1", "--dataset", "grabcut"], "leave out --dataset and --root"),
        (["--project", "1", "--root", "x"], "leave out --dataset and --root"),
        (["--project", "1", "--explain", "x"], "--beside and --explain belong to --dataset"),
        (["--project", "1", "--limit", "0"], "a limit of 0 objects"),
        (["--project", "1", "--backbone", "vit"], "needs --model"),
        (["--project", "1", "--backbone", "vitt"], "no backbone is called vitt"),
        (["--project", "1"], "project 1 has no accepted mask: 1 tasks have no annotation with a mask"),
        (["--project", "9"], "404"),
        (["--dataset", "grabcut"], "name a data set with --dataset, --root and --json"),
        ([], "or a Label Studio project: --project"),
        (
            ["--dataset", "folder", "--root", "x", "--json", "y", "--backbone", "color", "--backbone", "sd2"],
            "--dataset measures one --backbone",
        ),
    ],
)
def test_options_that_exclude_each_other_are_refused_in_one_line(
    arguments: list[str], cause: str, studio: FakeLabelStudio, capfd: pytest.CaptureFixture[str]
) -> None:
    studio.add_task(1)
    if "--backbone" not in arguments:
        arguments = [*arguments, "--backbone", "color"]
    done = evaluate(studio, *arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert cause in " ".join((done.output + capfd.readouterr().err).split())


def chosen(*asked: str, **settings: Any) -> list[tuple[str, str | None, tuple[int, ...] | None]]:
    found = chosen_backbones(load_settings(**settings), asked)
    return [(one.backbone, one.model, one.layers) for one in found]


def test_model_and_layers_belong_to_the_only_backbone_or_to_vit_among_several() -> None:
    assert chosen("dinov2", model="m", layers=(3,)) == [("dinov2", "m", (3,))]
    assert chosen("color", "vit", model="m", layers=(3,)) == [("color", None, None), ("vit", "m", (3,))]
    assert chosen("vit=a", "vit=b", layers=(3,)) == [("vit", "a", (3,)), ("vit", "b", (3,))]
    assert chosen("dinov2=a", "color") == [("dinov2", "a", None), ("color", None, None)]
    assert chosen(backbone="vit", model="m") == [("vit", "m", None)]
    with pytest.raises(SettingsError, match="belong to vit, which is not among them"):
        chosen("dinov2", "color", model="m")
    with pytest.raises(SettingsError, match="given twice"):
        chosen("color", "color")
