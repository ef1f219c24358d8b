"""Predictions for a project: which prompts make which objects, what is posted, what is passed over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_label_studio import BRUSH_CONFIG, HEIGHT, LEGACY, PERSONAL, WIDTH, FakeLabelStudio, jwt, png
from label_studio_fakes import DiscPool, key_point, rectangle, settings
from label_studio_sdk.converter.brush import decode_rle
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.errors import (
    BackboneUnavailable,
    InvalidLabelConfig,
    InvalidRequest,
    LabelStudioUnavailable,
    SettingsError,
)
from m2n2_backend.labelstudio.batch import ProjectBatch
from m2n2_backend.labelstudio.contract.label_config import ShownImage, parse_label_config
from m2n2_backend.labelstudio.contract.saved_prompts import column_objects, saved_objects
from m2n2_backend.labelstudio.outcome import Outcome
from m2n2_backend.prompts import Box, Click, Prompts

SHIPPED = parse_label_config(BRUSH_CONFIG)
SHOWN = ShownImage(SHIPPED.images[0])


def point(x: float = 50.0, y: float = 50.0, label: str = "Person", **fields: Any) -> dict[str, Any]:
    return key_point(x, y, label, **{"from_name": "keypoint", **fields})


def box(*sides: float, **fields: Any) -> dict[str, Any]:
    x, y, width, height = sides
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": ["Person"]}
    return {**rectangle(*sides), "from_name": "rectangle", "value": value, **fields}


@pytest.fixture
def studio(studio: FakeLabelStudio) -> FakeLabelStudio:
    """With one project."""
    studio.connect("http://backend:9090")
    return studio


def batch(studio: FakeLabelStudio, key: str | None = LEGACY, project: int = 1, **options: Any) -> ProjectBatch:
    return ProjectBatch(settings(label_studio_url=studio.url, label_studio_api_key=key), project, **options)


def prompts_of(pool: DiscPool) -> list[Prompts]:
    return [prompts for _, prompts in pool.calls]


@pytest.mark.parametrize("key", [LEGACY, PERSONAL])
def test_saved_key_points_become_a_posted_mask(studio: FakeLabelStudio, key: str) -> None:
    task = studio.add_task(1, point(50, 50, id="a"), point(10, 10, id="b", is_positive=False))
    pool = DiscPool()

    assert list(batch(studio, key).run(pool)) == [Outcome(f"task {task}", "posted")]

    assert prompts_of(pool) == [Prompts((Click(32, 24), Click(6, 4, positive=False)), ())]
    (posted,) = studio.predictions(task)
    (region,) = posted["result"]
    assert (posted["model_version"], posted["score"]) == ("disc-1", 0.875)
    assert (region["from_name"], region["value"]["brushlabels"]) == ("mask", ["Person"])
    mask = decode_rle(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0
    expected = pool.mask(prompts_of(pool)[0], WIDTH, HEIGHT)
    assert np.array_equal(mask, expected)


def test_each_rectangle_and_the_points_of_each_label_are_an_object(studio: FakeLabelStudio) -> None:
    task = studio.add_task(
        1,
        point(50, 50, id="a"),
        box(0, 0, 50, 50, id="b"),
        point(20, 20, "Vehicle", id="c"),
        box(50, 50, 50, 50, id="d"),
        point(60, 60, id="e"),
    )
    pool = DiscPool()
    list(batch(studio).run(pool))
    shapes = [(len(prompts.clicks), len(prompts.boxes)) for prompts in prompts_of(pool)]
    assert shapes == [(2, 0), (0, 1), (1, 0), (0, 1)]
    regions = studio.predictions(task)[0]["result"]
    assert [region["value"]["brushlabels"] for region in regions] == [["Person"], ["Person"], ["Vehicle"], ["Person"]]
    assert len({region["id"] for region in regions}) == 4
    assert studio.paths().count("/data/upload/1/a.png") == 1, "the photograph is read once a task"


def test_prompts_of_drafts_count_and_win_over_the_annotation_they_change() -> None:
    task = {
        "annotations": [{"result": [point(10, 10, id="a")]}, {"result": [point(id="x")], "was_cancelled": True}],
        "drafts": [{"result": [point(90, 90, id="a"), point(20, 20, id="b")]}],
    }
    ((first, second),) = saved_objects(task, SHIPPED)
    assert (first["value"]["x"], second["value"]["x"]) == (90, 20)


def test_saved_masks_and_regions_of_other_controls_are_no_prompts() -> None:
    mask = {"id": "m", "type": "brushlabels", "from_name": "mask", "value": {"format": "rle", "rle": []}}
    other = point(id="o", from_name="landmarks")
    assert saved_objects({"annotations": [{"result": [mask, other, None, 7]}], "drafts": None}, SHIPPED) == []


def test_labels_of_their_own_control_tell_objects_apart() -> None:
    config = parse_label_config(
        '<View><Image name="image" value="$image"/><Brush name="brush" toName="image" smart="false"/>'
        '<KeyPoint name="kp" toName="image" smart="true"/>'
        '<Labels name="labels" toName="image"><Label value="A"/><Label value="B"/></Labels></View>'
    )
    regions = []
    for name, label in (("1", "A"), ("2", "B"), ("3", "A")):
        plain = key_point(50, 50, id=name, type="keypoint", value={"x": 50, "y": 50, "width": 0.2})
        regions += [plain, {**plain, "type": "labels", "from_name": "labels", "value": {"labels": [label]}}]
    objects = saved_objects({"annotations": [{"result": regions}]}, config)
    assert [[item["id"] for item in items] for items in objects] == [["1", "1", "3", "3"], ["2", "2"]]


def test_prompts_of_a_data_column_are_pixels(studio: FakeLabelStudio) -> None:
    column = [
        {"x": 0, "y": 0, "label": "Person"},
        {"x": 63, "y": 47, "label": "Person", "positive": False},
        {"x0": 3, "y0": 1, "x1": 64, "y1": 48, "label": "Vehicle"},
    ]
    studio.add_task(1, clicks=column)
    pool = DiscPool()
    assert [outcome.state for outcome in batch(studio, column="clicks").run(pool)] == ["posted"]
    # The photograph was read for its size, so that the model asks for the file before it answers.
    assert list(dict.fromkeys(prompts_of(pool))) == [
        Prompts((Click(0, 0), Click(63, 47, positive=False)), ()),
        Prompts((), (Box(3, 1, 64, 48),)),
    ]
    assert studio.paths().count("/data/upload/1/a.png") == 1


def test_every_pixel_survives_the_way_through_percent() -> None:
    pool = DiscPool()
    for width in (7, 97, 640, 1365):
        for x in range(width):
            ((item,),) = column_objects([{"x": x, "y": 0}], "data.clicks", (width, 5), SHOWN)
            assert int(item["value"]["x"] * width / 100) == x
    assert not pool.calls


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("320,240", "data.clicks is not valid JSON"),
        ({"x": 1, "y": 1}, "data.clicks must be a list"),
        ([7], r"data.clicks\[0\] must be an object"),
        ([{"x": 1}], r"data.clicks\[0\].y must be a number"),
        ([{"x": 1, "y": 1, "positve": False}], r"data.clicks\[0\].positve is unknown"),
        ([{"x0": 1, "y0": 1, "x1": 2}], r"data.clicks\[0\].y1 must be a number"),
        ([{"x": 1, "y": 1, "label": 3}], r"data.clicks\[0\].label must be a non-empty string"),
    ],
)
def test_a_column_of_something_else_is_told_its_path(value: Any, cause: str) -> None:
    with pytest.raises(InvalidRequest, match=cause):
        column_objects(value, "data.clicks", (64, 48), SHOWN)


def test_a_second_run_posts_nothing_and_asks_no_model(studio: FakeLabelStudio) -> None:
    tasks = [studio.add_task(1, point(id="a")) for _ in range(3)]
    list(batch(studio).run(DiscPool()))
    again = DiscPool()
    assert list(batch(studio).run(again)) == [Outcome(f"task {task}", "present") for task in tasks]
    assert again.calls == []
    assert [len(studio.predictions(task)) for task in tasks] == [1, 1, 1]


def test_predictions_of_another_version_do_not_count(studio: FakeLabelStudio) -> None:
    task = studio.add_task(1, point(id="a"))
    studio.tasks[0]["predictions"] = [{"id": 1, "result": [], "model_version": "disc-0"}]
    assert [outcome.state for outcome in batch(studio).run(DiscPool())] == ["posted"]
    assert [one["model_version"] for one in studio.predictions(task)] == ["disc-0", "disc-1"]


def test_one_task_that_fails_does_not_stop_the_others(studio: FakeLabelStudio) -> None:
    studio.files["a.png"] = png()
    good = studio.add_task(1, point(id="a"))
    missing = studio.add_task(1, point(id="a"), image="/data/upload/1/none.png")
    outside = studio.add_task(1, point(150, 50, id="a"))
    bare = studio.add_task(1)
    last = studio.add_task(1, point(id="a"), drafts=True)
    outcomes = {outcome.name: outcome for outcome in batch(studio).run(DiscPool())}
    assert [outcomes[f"task {task}"].state for task in (good, missing, outside, bare, last)] == [
        "posted",
        "failed",
        "failed",
        "no prompts",
        "posted",
    ]
    assert "404" in outcomes[f"task {missing}"].detail
    assert "outside the image" in outcomes[f"task {outside}"].detail


def test_an_empty_mask_is_a_failure_and_not_posted(studio: FakeLabelStudio) -> None:
    task = studio.add_task(1, point(id="a"))
    (outcome,) = batch(studio).run(DiscPool(radius=0))
    assert (outcome.state, outcome.detail) == ("failed", "no mask was found for the prompts")
    assert studio.predictions(task) == []


def test_a_prediction_that_label_studio_declines_is_a_failure(studio: FakeLabelStudio) -> None:
    studio.add_task(1, point(id="a"))
    studio.declines_predictions = True
    (outcome,) = batch(studio).run(DiscPool())
    assert outcome.state == "failed"
    assert "400 for POST /api/predictions/: Validation error" in outcome.detail


def test_more_tasks_than_a_page_are_all_seen(studio: FakeLabelStudio) -> None:
    for _ in range(101):
        studio.add_task(1)
    project = batch(studio)
    assert project.size == 101
    assert len(list(project.run(DiscPool()))) == 101


def test_a_model_that_cannot_be_loaded_ends_the_run(studio: FakeLabelStudio) -> None:
    studio.add_task(1, point(id="a"))
    with pytest.raises(BackboneUnavailable, match="fetch-weights"):
        list(batch(studio).run(DiscPool(state="failed")))


def test_what_cannot_begin_says_why(studio: FakeLabelStudio) -> None:
    with pytest.raises(SettingsError, match="LABEL_STUDIO_API_KEY"):
        batch(studio, None)
    with pytest.raises(LabelStudioUnavailable, match="404 for GET /api/projects/9/: Not found; `m2n2"):
        batch(studio, project=9)
    with pytest.raises(LabelStudioUnavailable, match="401 for GET /api/projects/1/: Invalid token") as caught:
        batch(studio, "mistyped")
    assert "mistyped" not in str(caught.value)
    with pytest.raises(LabelStudioUnavailable, match="wrong, expired or revoked"):
        batch(studio, jwt(token_type="refresh", exp=1))
    studio.projects[1] = "<View/>"
    with pytest.raises(InvalidLabelConfig):
        batch(studio)


def test_the_command_reports_what_failed_and_fails(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    studio.add_task(1, point(id="a"))
    studio.add_task(1, point(id="a"), image="/data/upload/1/none.png")
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    arguments = ["predict-project", "--project", "1", "--backbone", "color", "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "task 2: image download failed: 404" in done.stderr
    assert "1 posted, 0 had one already, 0 without prompts, 1 failed" in done.stderr
    del studio.tasks[1]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "0 posted, 1 had one already, 0 without prompts, 0 failed" in done.stderr


def with_predictions(studio: FakeLabelStudio, *regions: dict[str, Any]) -> int:
    """A task whose prompts another model has left as its prediction."""
    task = studio.add_task(1)
    studio.tasks[task - 1]["predictions"] = [{"id": 1, "model_version": "detector", "result": list(regions)}]
    return task


def test_boxes_that_another_model_predicted_are_prompts_where_they_are_asked_for(studio: FakeLabelStudio) -> None:
    task = with_predictions(studio, box(0, 0, 50, 50, id="a"), box(50, 50, 50, 50, id="b"))
    pool = DiscPool()
    assert list(batch(studio, source="predictions").run(pool)) == [Outcome(f"task {task}", "posted")]
    assert [prompts.boxes for prompts in prompts_of(pool)] == [(Box(0, 0, 32, 24),), (Box(32, 24, 64, 48),)]


def test_a_task_without_prompts_tells_what_it_holds_instead(studio: FakeLabelStudio) -> None:
    with_predictions(studio, box(0, 0, 50, 50, id="a"))
    studio.add_task(1, box(0, 0, 50, 50, id="b", from_name="bbox"))
    studio.add_task(1)
    predicted, other, empty = batch(studio).run(DiscPool())
    assert [one.state for one in (predicted, other, empty)] == ["no prompts"] * 3
    assert predicted.detail == "its predictions hold prompts (1): --from predictions uses them"
    assert 'its points and rectangles (1) belong to "bbox", not to a smart control' in other.detail
    assert empty.detail == ""


@pytest.mark.parametrize("source", ["annotations", "predictions"])
def test_a_prompt_saved_without_the_size_of_its_image_is_told_in_words_of_its_import(
    studio: FakeLabelStudio, source: Any
) -> None:
    bare = box(0, 0, 50, 50, id="a")
    del bare["original_width"]
    _ = studio.add_task(1, bare) if source == "annotations" else with_predictions(studio, bare)
    (outcome,) = batch(studio, source=source).run(DiscPool())
    assert outcome.state == "failed"
    assert outcome.detail == (
        f"the rectangle a in the task's {source} was saved without original_width and original_height, "
        "the size of its image in pixels: add both to what imports it"
    )


def test_points_on_two_images_are_two_objects() -> None:
    controls = "".join(
        f'<Image name="{name}" value="${name}"/><KeyPointLabels name="kp_{name}" toName="{name}"><Label value="A"/>'
        f'</KeyPointLabels><BrushLabels name="b_{name}" toName="{name}" smart="false"><Label value="A"/>'
        "</BrushLabels>"
        for name in ("left", "right")
    )
    regions = [key_point(50, 50, "A", id=name, from_name=f"kp_{name}", to_name=name) for name in ("left", "right")]
    objects = saved_objects({"annotations": [{"result": regions}]}, parse_label_config(f"<View>{controls}</View>"))
    assert [[item["id"] for item in items] for items in objects] == [["left"], ["right"]]


def test_a_column_of_prompts_does_not_go_with_several_images(studio: FakeLabelStudio) -> None:
    image = '<Image name="image" value="$image"'
    several = BRUSH_CONFIG.replace(image, image.replace("value=", "valueList="))
    studio.projects[1] = several
    studio.add_task(1, image=["/data/upload/1/a.png", "/data/upload/1/b.png"], clicks=[{"x": 1, "y": 1}])
    (outcome,) = batch(studio, column="clicks").run(DiscPool())
    assert outcome.detail == "a column of prompts needs a task with one image, and this one has several images"


@pytest.mark.parametrize("source", ["annotations", "predictions"])
def test_imported_boxes_without_ids_or_with_the_same_ids_are_all_answered(
    studio: FakeLabelStudio, source: Any
) -> None:
    def imported(x: float, **fields: Any) -> dict[str, Any]:
        found = box(x, 0, 20, 50, **fields)
        return {key: value for key, value in found.items() if key != "id" or "id" in fields}

    task = studio.add_task(1)
    entries = [[imported(0), imported(25)], [imported(50, id="same")], [imported(75, id="same")]]
    studio.tasks[task - 1][source] = [{"id": n, "result": result} for n, result in enumerate(entries)]
    pool = DiscPool()
    assert [one.state for one in batch(studio, source=source).run(pool)] == ["posted"]
    assert [prompts.boxes[0].x0 for prompts in prompts_of(pool)] == [0, 16, 32, 48]
    assert len({region["id"] for region in studio.predictions(task)[-1]["result"]}) == 4
