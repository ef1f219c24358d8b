"""What a request claims costs nothing before it is known to be true."""

from __future__ import annotations

import base64
import io
import json
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
import pytest
from fake_label_studio import HEIGHT, WIDTH
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_fakes import CountingMedia, DiscPool, key_point, labels, payload, rectangle
from label_studio_fakes import settings as backend_settings
from numpy.typing import NDArray
from PIL import Image
from questions import asked as asked_of
from questions import parsed as parsed_with

from m2n2_backend.errors import InvalidImage, InvalidLabelConfig, InvalidPrompt, InvalidRequest, NotReady
from m2n2_backend.labelstudio.contract import scribbles
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.contract.models import MAX_TASKS, PredictRequest
from m2n2_backend.labelstudio.contract.reading import MAX_LABELS, read
from m2n2_backend.labelstudio.predictor import Predictor
from m2n2_backend.labelstudio.stroke_reader import LARGE_AT_ONCE, LARGE_STROKES, StrokeReader
from m2n2_backend.prompts import MAX_PROMPTS, MOST_CORNERS, MOST_TOGETHER, Prompts
from m2n2_backend.server.app import create_app
from m2n2_backend.worker.replica.rle import brush_rle

CONFIG = f"""<View><Image name="image" value="$image"/>
<BrushLabels name="out" toName="image" smart="false">{labels("Cat")}</BrushLabels>
<Labels name="labels" toName="image">{labels("Cat")}</Labels>
<KeyPoint name="kp" toName="image" smart="true"/><Rectangle name="rect" toName="image" smart="true"/>
<Brush name="brush" toName="image" smart="true"/><Bitmask name="bitmask" toName="image" smart="true"/>
<Ellipse name="ellipse" toName="image" smart="true"/><Polygon name="polygon" toName="image" smart="true"/></View>"""


class ShapesPool(DiscPool):
    """Draws polygons and strokes, too."""

    def mask(self, prompts: Prompts, width: int, height: int) -> NDArray[np.bool_]:
        size = height, width
        drawn = [one.mask(size, size) for one in (*prompts.clicks, *prompts.boxes) if hasattr(one, "mask")]
        return np.logical_or.reduce([np.ones(size, np.bool_), *drawn])


def item(kind: str, name: str = "p", size: tuple[int, int] = (WIDTH, HEIGHT), **value: Any) -> dict[str, Any]:
    sides = {"original_width": size[0], "original_height": size[1]}
    return {**key_point(id=name, **sides), "type": kind, "from_name": kind, "value": {**value, "labels": ["Cat"]}}


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def code(height: int, width: int) -> list[int]:
    """Of a stroke that covers every pixel."""
    return list(brush_rle(np.ones((height, width), np.bool_)))


asked = partial(asked_of, config=CONFIG)
parsed = partial(parsed_with, config=CONFIG)


def peak_of(act: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LARGE = (8000, 8000)
CLAIMS = {
    "a code": [item("brush", size=LARGE, rle=code(*LARGE))],
    "a PNG": [item("bitmask", size=LARGE, imageDataURL=data_url(Image.new("LA", LARGE, (0, 255))))],
    "four codes": [item("brush", str(n), LARGE, rle=code(*LARGE)) for n in range(4)],
}


@pytest.mark.parametrize("items", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_stroke_that_claims_a_larger_image_is_refused_before_it_is_read(items: list[dict[str, Any]]) -> None:
    predictor, request = Predictor(DiscPool(), CountingMedia()), asked(*items)
    predictor.configs.read(CONFIG)

    def ask() -> None:
        with pytest.raises(InvalidImage, match="the image is 64x48 pixels, but Label Studio showed 8000x8000"):
            predictor.predict(request, deadline=float("inf"))

    assert peak_of(ask) < 2_000_000


@pytest.mark.parametrize("mode", ["LA", "1", "P"])
def test_a_png_that_is_larger_than_the_image_is_refused_by_its_header(mode: str) -> None:
    request = parsed(item("bitmask", imageDataURL=data_url(Image.new(mode, LARGE))))

    def ask() -> None:
        with pytest.raises(InvalidPrompt, match="not drawn on an image of 64x48 pixels"):
            _ = request.prompts

    assert peak_of(ask) < 2_000_000


def test_strokes_are_read_one_at_a_time_in_less_memory_than_two_bytes_a_pixel() -> None:
    # A byte a pixel is mapped, which is not counted here.
    size, pixels = (3000, 2000), 6_000_000
    url = data_url(Image.new("RGBA", size, (0, 0, 0, 255)))
    one = parsed(item("brush", size=size, rle=code(2000, 3000)))
    twelve = parsed(*(item("brush", str(n), size, rle=code(2000, 3000)) for n in range(12)))
    pngs = parsed(*(item("bitmask", str(n), size, imageDataURL=url) for n in range(12)))
    assert peak_of(lambda: one.prompts) < pixels
    assert peak_of(lambda: twelve.prompts) < pixels
    assert peak_of(lambda: pngs.prompts) < pixels


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([item("brush", str(n), size=(6000, 4000), rle=[0]) for n in range(13)], "13 strokes .* draw at most 12"),
        ([item("brush", size=(20_000, 20_000), rle=[0])], "1 strokes .* draw at most 0, or click"),
        ([item("brush", str(n), rle=[0] * 100_000) for n in range(11)], "draw fewer or simpler ones"),
        ([item("bitmask", imageDataURL="A" * 2_000_001)], "more than 2000000 characters: draw a simpler"),
        ([item("brush", str(n), rle=[0]) for n in range(scribbles.MAX_STROKES + 1)], "more than 50 strokes"),
        (
            [{**rectangle(1, 1, 5, 5), "id": str(n)} for n in range(MAX_PROMPTS + 1)],
            "65 prompts for one object, and at most 64 are allowed",
        ),
        (
            [item("polygon", str(n), points=[[1, 1], [9, 1], [9, 9]] * 900) for n in range(4)],
            f"10800 corners .* at most {MOST_CORNERS}",
        ),
        (
            [
                *({**rectangle(1, 1, 5, 5), "id": str(n)} for n in range(32)),
                *(key_point(id=f"kp{n}") for n in range(MOST_TOGETHER // 32)),
            ],
            "32 boxes or polygons and 8 clicks .* at most 7 times",
        ),
    ],
)
def test_more_prompts_than_can_be_answered_in_a_moment_are_refused_with_what_may_be_drawn(
    items: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InvalidPrompt, match=message):
        parsed(*items)


CORNER = item("polygon", points=[[1, 1]])
ABSURD = st.sampled_from([1e305, -1e305, 1e300, 1e18, -1e18, 1e9, 1e-320, 0, -0.0, 10**30, -(10**30), 50, 100, 1e400])
NUMBERS = ("x", "y", "width", "height", "rotation", "radiusX", "radiusY")


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    app = create_app(backend_settings(), ShapesPool(), CountingMedia())
    app.testing = True  # an exception of a route would come through
    return app.test_client()


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_absurd_numbers_are_answered_or_refused_in_one_sentence(client: FlaskClient, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["keypoint", "rectangle", "ellipse", "polygon"]))
    value = {name: data.draw(ABSURD | st.floats(0, 60)) for name in NUMBERS}
    value["points"] = data.draw(st.lists(st.lists(ABSURD | st.floats(0, 100), min_size=2, max_size=2), max_size=5))
    around = {
        name: data.draw(st.just(usual) | ABSURD)
        for name, usual in {
            "original_width": WIDTH, "original_height": HEIGHT, "item_index": 0, "image_rotation": 0
        }.items()
    }  # fmt: skip
    drawn = {**item(kind, **value), **around, "from_name": {"keypoint": "kp", "rectangle": "rect"}.get(kind, kind)}
    answer = client.post("/predict", data=json.dumps(payload(drawn, config=CONFIG)), content_type="application/json")
    assert answer.status_code in (200, 400, 422)
    if answer.status_code != 200:
        assert 0 < len(answer.json["detail"]) < 500


def test_requests_with_large_strokes_are_read_one_at_a_time_and_others_do_not_wait() -> None:
    reader, go_on, inside = StrokeReader(), threading.Event(), threading.Semaphore(0)
    at_once, most = 0, 0

    class Asked:
        def __init__(self, pixels: int) -> None:
            self.stroke_pixels = pixels

        @property
        def prompts(self) -> Prompts:
            nonlocal at_once, most
            if self.stroke_pixels > LARGE_STROKES:
                at_once += 1
                most = max(most, at_once)
                inside.release()
                go_on.wait(30)
                at_once -= 1
            return Prompts()

    def ask(pixels: int) -> Prompts:
        return reader.read(Asked(pixels), float("inf"))  # type: ignore[arg-type]

    with ThreadPoolExecutor(LARGE_AT_ONCE + 1) as threads:
        clicks = [threads.submit(ask, LARGE_STROKES + 1) for _ in range(LARGE_AT_ONCE + 1)]
        assert inside.acquire(timeout=30)
        ask(LARGE_STROKES)
        (refused,), waiting = wait(clicks, 30, FIRST_COMPLETED)
        go_on.set()
        assert [each.result() for each in waiting] == [Prompts()] * LARGE_AT_ONCE
    with pytest.raises(NotReady, match="strokes on large images"):
        refused.result()
    assert most == 1


def test_the_labels_of_one_prompt_are_bounded_in_sum() -> None:
    twins = [
        {"type": "labels", "id": "p", "from_name": "labels", "value": {"labels": [f"{n}-{k}" for k in range(60)]}}
        for n in range(2)
    ]
    with pytest.raises(InvalidRequest, match=f"items of the same id have more than {MAX_LABELS} labels"):
        parsed(*twins, {**key_point(id="p"), "type": "keypoint"})


def test_polygons_are_no_longer_read_once_their_corners_are_too_many() -> None:
    with pytest.raises(InvalidRequest, match=r"result\[5\]: the polygons of .* more than 50000 corners"):
        parsed(*(item("polygon", str(n), points=[[1, 1]] * 10_000) for n in range(5)), *[CORNER] * 900)


def test_a_refusal_does_not_repeat_a_label_of_any_length() -> None:
    with pytest.raises(InvalidLabelConfig, match=r"label .x+…. is not in") as error:
        parsed(item("brush", rle=[0]) | {"value": {"rle": [0], "labels": ["x" * 1_000_000]}})
    assert len(str(error.value)) < 1000


def test_tasks_without_prompts_cost_little_more_than_their_bytes() -> None:
    body = {"tasks": [{} for _ in range(MAX_TASKS)]}
    assert peak_of(lambda: read(PredictRequest, body)) < 200 * MAX_TASKS


class CountingData(dict[str, Any]):
    """A task's data that notes how often it was looked into."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)


@pytest.mark.parametrize("source", ['value="$list[{{idx}}].url{0}"', 'valueList="$list"'])
def test_a_long_list_is_not_searched_for_every_image_of_the_config(source: str) -> None:
    images = "".join(
        f'<Image name="i{n}_{{{{idx}}}}" {source.replace("{0}", str(n))}/>'
        f'<KeyPoint name="k{n}_{{{{idx}}}}" toName="i{n}_{{{{idx}}}}" smart="true"/>'
        f'<Brush name="b{n}_{{{{idx}}}}" toName="i{n}_{{{{idx}}}}" smart="false"/>'
        for n in range(60)
    )
    config = parse_label_config(f'<View><Repeater on="$list">{images}</Repeater></View>')
    data = CountingData(list=[{}] * 10_000)
    assert list(config.addresses(data)) == []
    assert data.looks < 150_000
