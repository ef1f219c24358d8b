import base64
import io
from typing import Any

import cv2
import numpy as np
import pytest
from fake_label_studio import HEIGHT, WIDTH
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from label_studio_fakes import CONFIG, key_point, labels
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image
from questions import parsed

from m2n2_backend.labelstudio.contract.polygons import LEAST_HOLE, MOST_HOLES, MOST_PARTS, TOLERANCE, outlines
from m2n2_backend.labelstudio.contract.request import InteractiveRequest
from m2n2_backend.labelstudio.contract.response import _png_url, prediction, regions
from m2n2_backend.worker.interface import Answer


def request_for(tag: str = "BrushLabels", config: str | None = None, **item: Any) -> InteractiveRequest:
    config = config or CONFIG.replace("BrushLabels", tag)
    point = key_point(**item)
    task = {"data": {"image": ["/a.png"] * 3}} if "valueList" in config else {}
    return parsed(point, config=config, **task)


def disc(radius: float = 12.0) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (columns - 30) ** 2 + (rows - 20) ** 2 < radius**2


def filled(rings: list[NDArray[np.float64]], shape: tuple[int, ...], finer: int = 16) -> NDArray[np.bool_]:
    """Pixels whose centers lie in an even-odd filled polygon."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        large = np.zeros((shape[0] * finer, shape[1] * finer), np.uint8)
        cv2.fillPoly(large, [np.round(ring * finer - 0.5).astype(np.int32)], 1)
        mask |= large[finer // 2 :: finer, finer // 2 :: finer].astype(bool)
    return mask


def test_a_brush_region_decodes_to_the_mask_byte_for_byte() -> None:
    (region,) = regions(disc(), 0.875, request_for())
    assert {**region, "value": None} == {
        "id": request_for().region_id,
        "from_name": "brush",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "score": 0.875,
        "meta": {"prompts": 1, "area": int(disc().sum()), "parts": 1},
        "value": None,
    }
    assert (region["value"]["format"], region["value"]["brushlabels"]) == ("rle", ["Cat"])
    decoded = decode_rle(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
    assert np.array_equal(decoded, np.repeat(disc()[..., None].astype(np.uint8) * 255, 4, axis=2))


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (HEIGHT, WIDTH)).filter(np.any))
def test_any_mask_survives_the_brush_and_the_bitmask(mask: NDArray[np.bool_]) -> None:
    (brush,) = regions(mask, 1.0, request_for())
    assert np.array_equal(decode_rle(brush["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0, mask)
    (bitmask,) = regions(mask, 1.0, request_for("BitmaskLabels"))
    url = bitmask["value"]["imageDataURL"]
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert (image.mode, image.size) == ("RGBA", (WIDTH, HEIGHT))
    assert np.array_equal(np.asarray(image)[..., 3], mask * np.uint8(255))


def test_the_bitmask_of_a_large_photograph_has_the_same_pixels_in_few_bytes() -> None:
    size = (4000, 6000)
    mask = np.zeros(size, np.bool_)
    mask[1000:1700, 2000:2900] = True

    url = _png_url(mask)
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert len(url) < 50_000
    assert np.array_equal(np.asarray(image.convert("RGBA")), np.repeat(mask[..., None] * np.uint8(255), 4, axis=2))


def test_a_bitmask_region_has_its_label() -> None:
    (region,) = regions(disc(), 0.5, request_for("BitmaskLabels"))
    assert (region["type"], region["value"]["bitmasklabels"]) == ("bitmasklabels", ["Cat"])


def test_a_polygon_region_covers_the_mask_within_the_tolerance() -> None:
    (region,) = regions(disc(), 0.5, request_for("PolygonLabels"))
    assert (region["type"], region["value"]["closed"]) == ("polygonlabels", True)
    assert region["value"]["polygonlabels"] == ["Cat"]
    ring = np.array(region["value"]["points"]) * (WIDTH / 100, HEIGHT / 100)
    exact = cv2.findContours(disc().astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0]
    for x, y in ring:
        # OpenCV's contour runs half a pixel inside of the border, in pixel centers.
        distance = cv2.pointPolygonTest(exact, (float(x - 0.5), float(y - 0.5)), True)
        assert abs(distance) <= TOLERANCE + 0.75
    wrong = filled([ring], disc().shape) ^ disc()
    assert wrong.sum() < 0.05 * disc().sum()
    assert len(ring) < 40


def test_an_exact_outline_is_the_mask() -> None:
    mask = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((90, 120)), (0, 0), 5) > 0.01
    rings = outlines(mask, tolerance=0.0)
    assert len(rings) > 1
    wrong = filled(rings, mask.shape) ^ mask
    # Holes under the limit are filled.
    sizes = cv2.connectedComponentsWithStats(wrong.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    assert all(size < LEAST_HOLE for size in sizes)


def test_a_hole_is_cut_out_by_a_bridge() -> None:
    mask = disc(15) & ~disc(6)
    (region,) = regions(mask, 0.5, request_for("PolygonLabels"))
    ring = np.array(region["value"]["points"]) * (WIDTH / 100, HEIGHT / 100)
    assert not filled([ring], mask.shape)[20, 30]
    assert (filled([ring], mask.shape) ^ mask).sum() < 0.06 * mask.sum()


def test_several_holes_are_all_cut_out() -> None:
    mask = np.ones((60, 200), bool)
    for column in range(10, 190, 20):
        mask[20:40, column : column + 10] = False
    (ring,) = outlines(mask)
    assert (filled([ring], mask.shape) ^ mask).sum() < 40


def test_tiny_holes_are_filled() -> None:
    mask = np.ones((30, 30), bool)
    mask[10:13, 10:13] = False
    (ring,) = outlines(mask)
    assert len(ring) == 4


def test_each_part_is_a_region_of_its_own_and_the_largest_keeps_the_objects_id() -> None:
    mask = disc(6)
    mask[40:46, 50:60] = True
    request = request_for("PolygonLabels")
    first, second = regions(mask, 0.5, request)
    assert first["id"] == request.region_id
    assert second["id"] not in (first["id"], "")
    assert [region["id"] for region in regions(mask, 0.9, request)] == [first["id"], second["id"]]
    assert min(x for x, _ in second["value"]["points"]) == pytest.approx(100 * 50 / WIDTH, abs=1)


def test_further_parts_belong_to_the_first_and_specks_are_not_regions_unless_they_were_clicked() -> None:
    mask = disc(6)
    mask[40:46, 50:60] = True
    mask[2:4, 2:4] = mask[44, 3] = True
    first, second = regions(mask, 0.5, request_for("PolygonLabels"))
    assert "parentID" not in first
    assert second["parentID"] == first["id"]
    assert [first["meta"]["prompts"], second["meta"]] == [1, {"prompts": 1, "area": 60, "parts": 2}]
    clicked = request_for("PolygonLabels", x=100 * 3.5 / WIDTH, y=100 * 44.5 / HEIGHT)
    *_, last = regions(mask, 0.5, clicked)
    assert filled([np.array(last["value"]["points"]) * (WIDTH / 100, HEIGHT / 100)], mask.shape)[44, 3]
    assert last["meta"]["area"] == 1


def test_a_single_pixel_is_a_polygon_too() -> None:
    mask = np.zeros((5, 7), bool)
    mask[2, 3] = True
    (ring,) = outlines(mask)
    assert sorted(map(tuple, ring.tolist())) == [(3, 2), (3, 3), (4, 2), (4, 3)]


def test_a_full_mask_ends_exactly_at_the_borders() -> None:
    (region,) = regions(np.ones((HEIGHT, WIDTH), bool), 0.5, request_for("PolygonLabels"))
    assert sorted(region["value"]["points"]) == [[0, 0], [0, 100], [100, 0], [100, 100]]


def test_specks_and_holes_without_end_are_bounded() -> None:
    specks = np.zeros((100, 100), bool)
    specks[::4, ::4] = True
    assert len(outlines(specks)) == MOST_PARTS
    holes = np.ones((300, 300), bool)
    for row in range(2, 290, 10):
        for column in range(2, 290, 10):
            holes[row : row + 5, column : column + 5] = False
    (ring,) = outlines(holes)
    assert len(ring) < 10 * MOST_HOLES


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (9, 11)))
def test_every_ring_is_a_polygon_within_the_image(mask: NDArray[np.bool_]) -> None:
    for ring in outlines(mask):
        assert len(ring) >= 3
        assert ring.min() >= 0
        assert (ring <= (11, 9)).all()


def test_a_rectangle_region_is_the_bounding_box() -> None:
    config = CONFIG.replace("BrushLabels", "RectangleLabels")
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[12:24, 16:48] = True
    (region,) = regions(mask, 0.5, request_for(config=config))
    assert region["value"] == {
        "x": 25.0, "y": 25.0, "width": 50.0, "height": 25.0, "rotation": 0, "rectanglelabels": ["Cat"]
    }  # fmt: skip


def with_separate_labels(tag: str) -> str:
    return f"""<View><Image name="image" value="$image"/>
    <Labels name="labels" toName="image">{labels("Cat", "Dog")}</Labels>
    <{tag} name="shape" toName="image" smart="false"/>
    <KeyPointLabels name="kp" toName="image">{labels("Cat", "Dog")}</KeyPointLabels></View>"""


@pytest.mark.parametrize(("tag", "key"), [("Brush", "rle"), ("Bitmask", "imageDataURL")])
def test_a_mask_with_separate_labels_is_one_item_which_the_editor_encodes_once(tag: str, key: str) -> None:
    (region,) = regions(disc(), 0.5, request_for(config=with_separate_labels(tag)))
    assert (region["type"], region["from_name"], region["value"]["labels"]) == ("labels", "labels", ["Cat"])
    assert region["value"][key]


@pytest.mark.parametrize(("tag", "key"), [("Polygon", "points"), ("Rectangle", "width")])
def test_a_shape_without_labels_gets_them_as_a_second_item(tag: str, key: str) -> None:
    shape, label = regions(disc(), 0.5, request_for(config=with_separate_labels(tag)))
    assert (shape["type"], shape["from_name"]) == (tag.lower(), "shape")
    assert (label["type"], label["from_name"], label["value"]["labels"]) == ("labels", "labels", ["Cat"])
    assert label["id"] == shape["id"]
    assert label["value"][key] == shape["value"][key]


def test_rotation_and_page_are_echoed() -> None:
    config = CONFIG.replace('value="$image"', 'valueList="$image"')
    (region,) = regions(disc(), 0.5, request_for(config=config, item_index=2, image_rotation=90))
    assert (region["item_index"], region["image_rotation"]) == (2, 90)


def test_an_empty_mask_is_a_prediction_without_regions() -> None:
    answer = Answer(np.zeros((HEIGHT, WIDTH), bool), 0.0, "v", {})
    assert prediction(answer, request_for()) == {"result": [], "score": 0.0, "model_version": "v"}


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_score_that_would_spoil_the_task_never_leaves(score: float) -> None:
    with pytest.raises(ValueError, match="score"):
        prediction(Answer(disc(), score, "v", {}), request_for())


def test_a_numpy_score_becomes_a_plain_number() -> None:
    score = prediction(Answer(disc(), np.float32(0.5), "v", {}), request_for())["score"]
    assert type(score) is float
