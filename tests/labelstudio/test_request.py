import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_label_studio import HEIGHT, WIDTH
from hypothesis import given
from hypothesis import strategies as st
from label_studio_fakes import CONFIG, key_point, labels, payload, rectangle
from questions import question

from m2n2_backend.errors import InvalidLabelConfig, InvalidPrompt, InvalidRequest
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.contract.models import MAX_ITEMS, PredictRequest
from m2n2_backend.labelstudio.contract.reading import read
from m2n2_backend.labelstudio.contract.request import parse_request
from m2n2_backend.prompts import Box, Click, Polygon

PAGES = CONFIG.replace('value="$image"', 'valueList="$image"')
TOOLS = f"""<View><Image name="image" value="$image"/>
<Labels name="labels" toName="image">{labels("Cat", "Dog")}</Labels>
<Brush name="brush" toName="image" smart="false"/><KeyPoint name="kp" toName="image" smart="true"/>
<Rectangle name="rect" toName="image" smart="true"/></View>"""


parse: Callable[..., Any] = question


def with_context(context: Any) -> PredictRequest:
    return read(PredictRequest, {**payload(key_point()), "params": {"context": context}})


def test_a_click_arrives_in_pixels_of_the_natural_image() -> None:
    request = parse(key_point(25.0, 75.0))
    assert request.prompts.clicks == (Click(16, 36, True),)
    assert (request.width, request.height) == (WIDTH, HEIGHT)
    assert (request.image, request.task_id, request.label) == ("/data/upload/1/a.png", 7, "Cat")
    assert (request.targets[0].name, request.image_name, request.item_index) == ("brush", "image", None)


def test_clicks_on_the_border_belong_to_the_outermost_pixels() -> None:
    request = parse(key_point(0, 0), key_point(100, 100, id="kp2"))
    assert request.prompts.clicks == (Click(0, 0), Click(WIDTH - 1, HEIGHT - 1))


def test_alt_click_is_background_and_a_missing_is_positive_is_foreground() -> None:
    plain = key_point()
    del plain["is_positive"]
    request = parse(plain, key_point(10, 10, id="kp2", is_positive=False))
    assert [click.positive for click in request.prompts.clicks] == [True, False]


def test_the_label_is_the_newest_prompts() -> None:
    assert parse(key_point(), key_point(label="Dog", id="kp2")).label == "Dog"


def test_a_rectangle_covers_every_pixel_it_touches() -> None:
    request = parse(rectangle(12.5, 25.0, 50.0, 50.5))
    assert request.prompts.boxes == (Box(8, 12, 40, 37),)


def test_two_rectangles_of_one_label_come_together() -> None:
    assert len(parse(rectangle(0, 0, 10, 10), rectangle(50, 50, 10, 10, id="rect2")).prompts.boxes) == 2


def test_a_rectangle_may_end_on_the_border_and_a_rounding_error_behind_it() -> None:
    assert parse(rectangle(50, 50, 50.0000001, 50)).prompts.boxes == (Box(32, 24, 64, 48),)


def test_a_turned_rectangle_is_a_shape_in_pixels() -> None:
    # 25 % of 64 px is 16 px wide, 25 % of 48 px is 12 px high; turned clockwise it extends to the left.
    (shape,) = parse(rectangle(50, 25, 25, 25, rotation=90)).prompts.boxes
    assert isinstance(shape, Polygon)
    np.testing.assert_allclose(shape.points, [(32, 12), (32, 28), (20, 28), (20, 12)], atol=1e-9)


def test_a_turned_rectangle_may_reach_outside_of_the_image_but_not_lie_there() -> None:
    parse(rectangle(90, 50, 50, 20, rotation=45))
    with pytest.raises(InvalidPrompt, match=r"result\[0\]\.value: the shape lies outside the 64x48 image"):
        parse(rectangle(0, 50, 20, 20, rotation=135))


def test_key_point_and_labels_are_one_prompt_labeled_by_the_second_item() -> None:
    value = {"x": 50, "y": 50, "width": 0.2}
    point = key_point(type="keypoint", value=value)
    label = key_point(type="labels", from_name="labels", value={**value, "labels": ["Dog"]})
    request = parse(point, label, config=TOOLS)
    assert (len(request.prompts.clicks), request.label) == (1, "Dog")


def test_rectangle_and_labels_are_one_prompt() -> None:
    value = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0}
    box = rectangle(0, 0, 1, 1, type="rectangle", value=value)
    label = rectangle(0, 0, 1, 1, type="labels", from_name="labels", value={**value, "labels": ["Cat"]})
    request = parse(box, label, config=TOOLS)
    assert (len(request.prompts.boxes), request.label) == (1, "Cat")


def test_prompts_that_were_submitted_belong_to_an_earlier_object() -> None:
    saved = [{"id": 3, "result": [key_point(id="old"), {"id": "b", "type": "brushlabels", "value": {"rle": [1]}}]}]
    request = parse(key_point(10, 10, id="old"), key_point(90, 90, id="new"), annotations=saved)
    assert request.prompts.clicks == (Click(57, 43),)


def test_nothing_is_left_to_do_where_every_prompt_was_submitted() -> None:
    assert parse(key_point(id="old"), annotations=[{"result": [key_point(id="old")]}]) is None


def test_prompts_that_a_draft_saved_before_their_mask_was_accepted_still_count() -> None:
    first, second = key_point(10, 10, id="first"), key_point(90, 90, id="second", is_positive=False)
    saved = [{"id": "other", "type": "brushlabels", "value": {"rle": [1]}}, first, second]
    assert len(parse(first, second, drafts=[{"result": saved}]).prompts.clicks) == 2


def test_an_accepted_mask_ends_its_prompts_and_not_the_later_ones() -> None:
    a, b, c, d = (key_point(10 * n, 10, id=f"kp{n}") for n in range(1, 5))
    mask = {"id": parse(a, b).region_id, "type": "brushlabels", "value": {"rle": [1]}}
    request = parse(a, b, c, d, drafts=[{"result": [a, b, mask, c, d]}])
    assert request.prompts == parse(c, d).prompts
    assert request.region_id == parse(c).region_id


def test_items_of_other_types_are_passed_over() -> None:
    brush = {"type": "brushlabels", "id": "b", "value": {"format": "rle", "rle": [0]}}
    assert len(parse(brush, key_point()).prompts.clicks) == 1
    assert parse(brush) is None


@pytest.mark.parametrize("odd", [None, "x", 3, [None], [{"result": None}], [{"result": [None, {"id": []}]}], [[]]])
def test_whatever_stands_in_drafts_does_no_harm(odd: Any) -> None:
    assert parse(key_point(), drafts=odd, annotations=odd) is not None


class Opaque(list[int]):
    """Run lengths that nobody may look at: there are millions of them in a request."""

    def __iter__(self) -> Any:
        raise AssertionError("read")

    __getitem__ = __contains__ = __iter__  # type: ignore[assignment]


def test_the_runs_of_masks_in_a_request_are_not_read() -> None:
    mask = {"id": "mask", "type": "brushlabels", "value": {"format": "rle", "rle": Opaque([0, 1])}}
    assert parse(mask, key_point(), drafts=[{"result": [mask]}], annotations=[{"result": [mask]}]) is not None


def test_only_the_page_of_the_newest_prompt_counts_and_is_echoed() -> None:
    request = parse(
        key_point(10, 10, item_index=0),
        key_point(50, 50, id="kp2", item_index=1),
        key_point(60, 60, id="kp3", item_index=1),
        config=PAGES,
        data={"image": ["/p0.png", "/p1.png"]},
    )
    assert (request.image, request.item_index, len(request.prompts.clicks)) == ("/p1.png", 1, 2)


def test_the_rotation_of_the_view_is_echoed_and_changes_no_coordinate() -> None:
    request = parse(key_point(25.0, 75.0, image_rotation=90))
    assert (request.image_rotation, request.prompts.clicks) == (90, (Click(16, 36),))


def test_the_region_id_lasts_while_prompts_are_added_and_changes_with_the_object() -> None:
    first = parse(key_point(id="a")).region_id
    assert parse(key_point(30, 30, id="a"), key_point(id="b")).region_id == first
    others = {
        parse(key_point(id="b")).region_id,
        parse(key_point(id="a", label="Dog")).region_id,
        parse(key_point(id="a"), id=8).region_id,
    }
    assert len(others | {first}) == 4


def test_prompts_need_no_id() -> None:
    anonymous = key_point()
    del anonymous["id"]
    request = parse(anonymous, {**anonymous, "value": key_point(10, 10)["value"]})
    assert len(request.prompts.clicks) == 2
    assert request.region_id


@pytest.mark.parametrize("context", [None, {}, {"result": None}, {"result": []}])
def test_a_context_without_prompts_has_none(context: Any) -> None:
    assert with_context(context).items == []


@pytest.mark.parametrize("context", [[], "x", 1, True, {"result": {}}, {"result": "x"}])
def test_a_context_of_another_shape_is_refused(context: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"params\.context"):
        with_context(context)


def test_the_number_of_prompts_is_limited() -> None:
    with pytest.raises(InvalidRequest, match="the limit is"):
        with_context({"result": [key_point()] * (MAX_ITEMS + 1)})


FIELDS = {
    "type": [None, 3, ""],
    "from_name": [None, 3, "", "nobody"],
    "value": [None, [], "x"],
    "original_width": [None, "64", 0, -1, 1.5, True, float("nan"), 10**400],
    "original_height": [None, [], 10**9],
    "is_positive": ["yes", 1, []],
    "image_rotation": ["90", [1]],
    "item_index": ["0", -1, 0.5, True],
    "id": [3, [], ""],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in FIELDS.items() for value in values])
def test_a_malformed_field_is_named_by_its_path(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"params\.context\.result\[0\]\.{field}"):
        parse(key_point(**{field: value}))


@pytest.mark.parametrize("value", [None, "50", True, [], {}, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_coordinate_that_is_no_number_is_named_by_its_path(axis: str, value: Any) -> None:
    item = key_point()
    item["value"][axis] = value
    with pytest.raises(InvalidRequest, match=rf"result\[0\]\.value\.{axis} must be a"):
        parse(item)


@pytest.mark.parametrize(("x", "y"), [(-1e-15, 50), (50, -1e-15), (100.00000000000001, 50), (50, 100.00000000000001)])
def test_rounding_does_not_put_a_point_outside(x: float, y: float) -> None:
    prompts = parse(key_point(x, y)).prompts
    assert prompts.clicks[0].x == (0 if x < 0 else WIDTH - 1 if x > 99 else WIDTH // 2)


@pytest.mark.parametrize("value", [(-1e-15, 10, 50, 50), (10, -0.005, 50, 50), (50, 50, 50.000000001, 50.005)])
def test_rounding_does_not_put_a_rectangle_outside(value: tuple[float, ...]) -> None:
    assert parse(rectangle(*value)).prompts.boxes


@pytest.mark.parametrize(("x", "y"), [(-0.001, 50), (50, 100.001), (1e300, 50), (50, -1e300)])
def test_a_point_outside_of_the_image_is_named(x: float, y: float) -> None:
    with pytest.raises(InvalidPrompt, match=r"result\[0\]\.value: coordinate .* outside the image"):
        parse(key_point(x, y))


@pytest.mark.parametrize(
    "box", [(-1, 0, 10, 10), (95, 0, 10, 10), (0, 0, 0, 10), (0, 0, 10, -5), (0, 0, 1e308, 1e308)]
)
def test_an_impossible_rectangle_is_named(box: tuple[float, ...]) -> None:
    with pytest.raises(InvalidPrompt, match=r"result\[0\]\.value"):
        parse(rectangle(*box))


def test_only_background_points_are_no_prompt() -> None:
    with pytest.raises(InvalidPrompt, match="no foreground"):
        parse(key_point(is_positive=False))


def test_prompts_of_different_image_sizes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="original_width/height"):
        parse(key_point(), key_point(id="kp2", original_width=65))


def test_an_unmapped_label_is_refused() -> None:
    with pytest.raises(InvalidLabelConfig, match="Cow"):
        parse(key_point(label="Cow"))


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ({"data": None}, r"tasks\[0\]\.data"),
        ({"data": {}}, r"tasks\[0\]\.data\.image"),
        ({"data": {"image": [5]}}, r"tasks\[0\]\.data\.image"),
        ({"data": {"image": ""}}, r"tasks\[0\]\.data\.image"),
        ({"id": True}, r"tasks\[0\]\.id"),
        ({"id": [1]}, r"tasks\[0\]\.id"),
    ],
)
def test_a_malformed_task_is_named_by_its_path(task: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest, match=path):
        parse(key_point(), **task)


@pytest.mark.parametrize("data", [{"image": "/p0.png"}, {"image": []}, {"image": ["/p0.png"]}, {"image": [0, 1, 2]}])
def test_a_page_that_is_not_there_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"tasks\[0\]\.data\.image"):
        parse(key_point(item_index=1), config=PAGES, data=data)


def test_two_tasks_with_prompts_are_refused() -> None:
    body = payload(key_point())
    with pytest.raises(InvalidRequest, match="exactly one task"):
        parse_request(read(PredictRequest, {**body, "tasks": body["tasks"] * 2}), parse_label_config(CONFIG))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*key_point(), "item_index"]), JSON), JSON)
def test_no_value_of_any_field_raises_anything_but_our_errors(fields: dict[str, Any], coordinate: Any) -> None:
    item = {**key_point(coordinate), **fields}
    with contextlib.suppress(InvalidRequest, InvalidPrompt, InvalidLabelConfig):
        parse(item)
