"""Strokes and shapes as Label Studio 1.23.2's editor serializes them (``recorded_prompts.json``)."""

from __future__ import annotations

import base64
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_fakes import labels
from numpy.typing import NDArray
from PIL import Image
from questions import question

from m2n2_backend.errors import InvalidPrompt, InvalidRequest
from m2n2_backend.labelstudio.contract import scribbles
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.contract.request import InteractiveRequest
from m2n2_backend.labelstudio.contract.saved_prompts import saved_objects
from m2n2_backend.prompts import MOST_CORNERS, Polygon, Prompts, Scribble

RECORDED = json.loads((Path(__file__).parent / "recorded_prompts.json").read_text(encoding="utf-8"))
"""Drawn on an image of 640×480: strokes from (120, 180) by (170, 200) to (220, 220), a second one from (100, 260) to
(200, 260); an ellipse about (170, 200) to (275, 310); shapes with corners (60, 90) and (280, 310)."""

WIDTH, HEIGHT = 640, 480
NAMES = {"brush": "Brush", "bitmask": "Bitmask", "ellipse": "Ellipse", "polygon": "Polygon"}
OUTPUT = (
    f'<RectangleLabels name="out" toName="image" smart="false" m2n2="output">{labels("Object")}</RectangleLabels>'
)
IMAGE = '<Image name="image" value="$image"/>'
WITH_LABELS = (
    f'<View>{IMAGE}{OUTPUT}<Labels name="labels" toName="image">{labels("Object")}</Labels>'
    + "".join(f'<{tag} name="{name}" toName="image" smart="true"/>' for name, tag in NAMES.items())
    + "</View>"
)
CONFIG = (
    f"<View>{IMAGE}{OUTPUT}"
    + "".join(
        f'<{tag}Labels name="{name}" toName="image" smart="true">{labels("Object")}</{tag}Labels>'
        for name, tag in {**NAMES, "kp": "KeyPoint", "rect": "Rectangle", "rect3": "Rectangle"}.items()
    )
    + "</View>"
)


def parsed(items: list[dict[str, Any]], config: str = CONFIG, **task: Any) -> InteractiveRequest | None:
    return question(*items, config=config, **task)


def prompts(items: list[dict[str, Any]]) -> Prompts:
    request = parsed(items)
    assert request is not None
    return request.prompts


def only(name: str, config: str = CONFIG) -> Scribble | Polygon:
    request = parsed(RECORDED[name], config)
    assert request is not None
    assert request.label == "Object"
    (prompt,) = (*request.prompts.clicks, *request.prompts.boxes)
    assert isinstance(prompt, Scribble | Polygon)
    return prompt


def changed(name: str, **value: Any) -> list[dict[str, Any]]:
    (item,) = copy.deepcopy(RECORDED[name])
    item["value"].update(value)
    return [item]


def covered(scribble: Scribble | Polygon) -> NDArray[np.bool_]:
    assert isinstance(scribble, Scribble)
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[scribble.pixels()] = True
    return mask


@pytest.mark.parametrize(
    ("name", "config"), [("brush", CONFIG), ("bitmask", CONFIG), ("brush_with_labels", WITH_LABELS)]
)
def test_a_stroke_is_one_foreground_scribble_where_it_was_drawn(name: str, config: str) -> None:
    stroke = only(name, config)
    mask = covered(stroke)
    assert stroke.positive  # type: ignore[union-attr]
    for x, y in ((122, 181), (170, 200), (218, 219)):
        assert mask[y, x]
    rows, cols = np.nonzero(mask)
    # At the same setting the bitmask tool paints 30 pixels wide where the brush paints 12.
    assert 100 < cols.min() < 120
    assert 220 < cols.max() < 240
    assert 160 < rows.min() < 180
    assert 220 < rows.max() < 240


def test_a_second_stroke_of_the_same_region_grows_the_scribble() -> None:
    one, two = covered(only("brush")), covered(only("brush_of_two_strokes"))
    assert not (one & ~two).any()
    assert two[260, 150]
    assert not one[260, 150]


def test_a_stroke_may_say_that_it_is_background() -> None:
    request = parsed([RECORDED["key_point"][0], {**RECORDED["brush"][0], "is_positive": False}])
    assert request is not None
    assert [prompt.positive for prompt in request.prompts.clicks] == [True, False]


@pytest.mark.parametrize(("name", "config"), [("ellipse", CONFIG), ("ellipse_with_labels", WITH_LABELS)])
def test_an_ellipse_is_a_polygon_in_pixels(name: str, config: str) -> None:
    xs, ys = np.array(only(name, config).points).T  # type: ignore[union-attr]
    np.testing.assert_allclose([xs.mean(), ys.mean()], [170.7, 200.5], atol=0.5)
    np.testing.assert_allclose([np.ptp(xs) / 2, np.ptp(ys) / 2], [104.5, 109.8], atol=0.5)


@pytest.mark.parametrize(("name", "config"), [("polygon", CONFIG), ("polygon_with_labels", WITH_LABELS)])
def test_a_polygon_arrives_in_pixels(name: str, config: str) -> None:
    corners = only(name, config).points  # type: ignore[union-attr]
    np.testing.assert_allclose(corners, [(60, 90), (280, 90), (280, 310), (60, 310)], atol=1.0)


def test_a_rectangle_of_three_points_is_turned_in_pixels() -> None:
    corners = np.array(only("turned_rectangle").points)  # type: ignore[union-attr]
    np.testing.assert_allclose(corners[:2], [(100, 100), (300, 150)], atol=1.5)
    first, second = corners[1] - corners[0], corners[2] - corners[1]
    assert abs(first @ second) < 1.0


def test_strokes_and_shapes_of_controls_that_are_not_smart_are_passed_over_unread() -> None:
    mask = {"type": "brushlabels", "from_name": "out", "id": "m", "value": {"rle": "not even a list"}}
    request = parsed([mask, *RECORDED["key_point"]])
    assert request is not None
    assert len(request.prompts.clicks) == 1
    assert parsed([mask]) is None
    assert parsed([{**mask, "from_name": {}}]) is None


def png(size: tuple[int, int]) -> str:
    buffer = io.BytesIO()
    Image.new("RGBA", size).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


RLE = RECORDED["brush"][0]["value"]["rle"]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (changed("brush", rle=RLE[:40]), InvalidPrompt, "ends too early"),
        (changed("brush", rle=[]), InvalidPrompt, "not drawn on an image of 640x480"),
        (changed("brush", rle=[255] * 4 + RLE[4:]), InvalidPrompt, "not drawn on an image of 640x480"),
        (changed("brush", rle=[0] * (scribbles.MAX_CODE + 1)), InvalidPrompt, "more than 1000000 bytes: draw fewer"),
        (changed("brush", rle=[0, 256]), InvalidRequest, r"result\[0\]\.value\.rle\[1\] must be a whole number"),
        (changed("brush", rle="00"), InvalidRequest, r"result\[0\]\.value\.rle must be a list, not a string"),
        (changed("bitmask", imageDataURL="data:image/gif;base64,AA"), InvalidPrompt, "must be a PNG"),
        (changed("bitmask", imageDataURL="data:image/png;base64,AAAA"), InvalidPrompt, "cannot be read"),
        (changed("bitmask", imageDataURL=png((640, 481))), InvalidPrompt, "not drawn on an image of 640x480"),
        (changed("bitmask", imageDataURL=png((640, 480))), InvalidPrompt, "covers no pixel"),
        (changed("ellipse", radiusX=0), InvalidPrompt, r"result\[0\]\.value: the ellipse is empty"),
        (changed("ellipse", radiusX=None), InvalidRequest, r"value\.radiusX must be a number, not missing or null"),
        (changed("ellipse", x=-50), InvalidPrompt, "lies outside the 640x480 image"),
        (changed("polygon", points=[[1, 1], [5, 5]]), InvalidPrompt, "three corners"),
        (changed("polygon", points=[[1], [5, 5]]), InvalidRequest, r"points\[0\] must be a list of two numbers"),
        (changed("polygon", points=[[1, 1]] * (MOST_CORNERS + 1)), InvalidRequest, "has 10001 entries"),
        ([{**RECORDED["brush"][0], "id": str(n)} for n in range(51)], InvalidPrompt, "more than 50 strokes"),
    ],
)
def test_strokes_and_shapes_that_cannot_be_read_are_refused_with_their_cause(
    items: list[dict[str, Any]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prompts(items)


def test_saved_strokes_go_with_the_points_of_their_label_and_each_shape_is_an_object() -> None:
    result = [RECORDED[name][0] for name in ("brush", "key_point", "ellipse", "polygon", "rectangle")]
    groups = saved_objects({"annotations": [{"result": result}]}, parse_label_config(CONFIG))
    assert [[item["type"] for item in group] for group in groups] == [
        ["brushlabels", "keypointlabels"],
        ["ellipselabels"],
        ["polygonlabels"],
        ["rectanglelabels"],
    ]
