"""Labeling configs as projects really have them: a control for each class, several images, nested data, Repeater."""

from __future__ import annotations

from typing import Any

import pytest
from editor import Editor
from rig import Backend, Studio

from m2n2_backend.resources import sample_photograph

HAIR, SUIT = (230, 60), (215, 380)


def labels(*names: str) -> str:
    return "".join(f'<Label value="{name}"/>' for name in names)


def saved(studio: Studio, task: int) -> list[dict[str, Any]]:
    (annotation,) = studio.api.call("GET", f"/api/tasks/{task}/annotations")
    found: list[dict[str, Any]] = annotation["result"]
    return found


@pytest.mark.parametrize("houses", ["BrushLabels", "PolygonLabels"])
def test_a_click_comes_back_as_the_class_that_was_selected(
    houses: str, editor: Editor, studio: Studio, backend: Backend
) -> None:
    config = (
        '<View><Image name="image" value="$image"/>'
        f'<BrushLabels name="trees" toName="image" smart="false">{labels("Tree")}</BrushLabels>'
        f'<{houses} name="houses" toName="image" smart="false">{labels("House")}</{houses}>'
        f'<KeyPointLabels name="keypoint" toName="image" smart="true">{labels("Tree", "House")}'
        "</KeyPointLabels></View>"
    )
    number, (task,) = studio.project(f"a control a class, {houses}", config, [sample_photograph()], backend.url)
    editor.open(number, task, tool=None)
    editor.turn_to("image")
    for place, label in ((HAIR, "House"), (SUIT, "Tree")):
        editor.click(*place, label)
        editor.accept()
    editor.submit()
    found = {(region["from_name"], region["value"][region["type"]][0]) for region in saved(studio, task)}
    assert found == {("houses", "House"), ("trees", "Tree")}


def test_every_image_of_a_task_is_clicked_on_its_own(editor: Editor, studio: Studio, backend: Backend) -> None:
    controls = (
        f'<BrushLabels name="mask_NAME" toName="NAME" smart="false" choice="multiple">{labels("Hair", "Red")}'
        f'</BrushLabels><KeyPointLabels name="point_NAME" toName="NAME" choice="multiple">{labels("Hair", "Red")}'
        "</KeyPointLabels>"
    )
    config = (
        '<View><Image name="first" value="$photo.url"/>'
        + controls.replace("NAME", "first")
        + '<Repeater on="$more"><Image name="more_{{idx}}" value="$more[{{idx}}].url"/>'
        + controls.replace("NAME", "more_{{idx}}")
        + "</Repeater></View>"
    )
    number, (task,) = studio.project("file", "brush", [sample_photograph()], backend.url)
    url = next(studio.api.tasks(number))["data"]["image"]
    number, _ = studio.project("several images", config, [], backend.url)
    data = {"photo": {"url": url}, "more": [{"url": url}, {"url": url}]}
    studio.api.call("POST", f"/api/projects/{number}/import", [{"data": data}])
    (task,) = studio.tasks(number)

    editor.open(number, task, tool=None)
    for image in ("first", "more_1"):
        editor.turn_to(image)
        editor.choose_label("Hair", f"point_{image}")
        with editor.answering("Red", f"point_{image}", further=True) as answer:
            editor.press(*HAIR)
        editor.shown(answer())
        editor.accept()
    editor.submit()
    found = [(one["to_name"], one["from_name"], one["value"]["brushlabels"]) for one in saved(studio, task)]
    assert found == [(image, f"mask_{image}", ["Hair", "Red"]) for image in ("first", "more_1")]
