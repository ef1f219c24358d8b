"""What can be wrong with a request, over a real socket: always a 4xx whose reason phrase names the cause."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fake_label_studio import HEIGHT, LEGACY, WIDTH, FakeLabelStudio, png
from label_studio_fakes import CONFIG, DiscPool, data_url, key_point, payload, rectangle, send, serving, settings
from PIL import Image
from questions import require_explained

from m2n2_backend.server.app import create_app


def without(item: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in names}


def with_value(item: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**item, "value": {**item["value"], **fields}}


def changed(**fields: Any) -> dict[str, Any]:
    return {**payload(key_point()), **fields}


def gif() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("L", (WIDTH, HEIGHT), shade) for shade in (0, 128, 255)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def ppm() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(file, "PPM")
    return file.getvalue()


POINT = key_point()
IMAGE = '<Image name="image" value="$image"/>'
DEEP = b'{"tasks":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BOMB = '<!DOCTYPE View [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><View>&b;</View>'

BODIES: dict[str, tuple[Any, int, str]] = {
    "empty body": (b"", 400, "not valid JSON"),
    "broken JSON": (b'{"tasks": [', 400, "not valid JSON"),
    "not UTF-8": (b"\xff\xfe{}", 400, "not valid JSON"),
    "a number of ten thousand digits": (b'{"tasks": ' + b"9" * 10_000 + b"}", 400, "not valid JSON"),
    "deeply nested JSON": (DEEP, 400, "nested too deeply"),
    "a list": ([], 400, "the request must be an object, not a list"),
    "null": (b"null", 400, "the request must be an object"),
    "a string": (b'"tasks"', 400, "the request must be an object"),
    "no tasks": (without(changed(), "tasks"), 400, "tasks must be a list, not missing or null"),
    "tasks is an object": (changed(tasks={}), 400, "tasks must be a list"),
    "a task is a number": (changed(tasks=[1]), 400, "tasks[0] must be an object"),
    "a later task is null": (changed(tasks=[{}, None], params=None), 400, "tasks[1] must be an object"),
    "two tasks with prompts": (changed(tasks=changed()["tasks"] * 2), 400, "exactly one task"),
    "no task with prompts": (changed(tasks=[]), 400, "exactly one task"),
    "params is a list": (changed(params=[]), 400, "params must be an object"),
    "context is a string": (changed(params={"context": "x"}), 400, "params.context must be an object"),
    "context is a list": (changed(params={"context": [POINT]}), 400, "params.context must be an object"),
    "result is an object": (
        changed(params={"context": {"result": POINT}}),
        400,
        "params.context.result must be a list",
    ),
    "far too many prompts": (payload(*[POINT] * 1001), 400, "1001 entries"),
    "project is a list": (changed(project=[1]), 400, "project must be"),
    "no label config": (without(changed(), "label_config"), 400, "label_config must be"),
    "label config is null": (changed(label_config=None), 400, "label_config must be"),
    "no data": (payload(POINT, data=None), 400, "tasks[0].data must be an object"),
    "no image in the data": (payload(POINT, data={"img": "a"}), 400, "tasks[0].data.image must be"),
    "image is a number": (payload(POINT, image=5), 400, "tasks[0].data.image must be"),
    "image is an object": (payload(POINT, image={"url": "/a.png"}), 400, "tasks[0].data.image must be"),
    "task id is a list": (payload(POINT, id=[7]), 400, "tasks[0].id"),
    "a prompt is null": (payload(None), 400, "params.context.result[0] must be an object"),
    "a prompt without type": (payload(without(POINT, "type")), 400, "params.context.result[0].type"),
    "a prompt without from_name": (payload(without(POINT, "from_name")), 400, "result[0].from_name"),
    "from_name is unknown": (payload({**POINT, "from_name": "kp9"}), 400, 'from_name "kp9" is not a smart control'),
    "a prompt without value": (payload(without(POINT, "value")), 400, "result[0].value"),
    "a prompt without x": (payload(with_value(POINT, x=None)), 400, "result[0].value.x must be a number"),
    "x is a string": (payload(with_value(POINT, x="50")), 400, "result[0].value.x must be a number"),
    "y is a boolean": (payload(with_value(POINT, y=True)), 400, "result[0].value.y must be a number, not a boolean"),
    "x is NaN": (payload(with_value(POINT, x=float("nan"))), 400, "result[0].value.x must be a finite number"),
    "y is infinite": (payload(with_value(POINT, y=float("inf"))), 400, "result[0].value.y must be a finite number"),
    "x is far left": (payload(with_value(POINT, x=-5)), 422, "coordinate -5.0% is outside the image"),
    "y is just below": (payload(with_value(POINT, y=100.01)), 422, "coordinate 100.01% is outside the image"),
    "the second point is outside": (
        payload(POINT, key_point(200, 0, id="b")),
        422,
        "result[1].value: coordinate 200",
    ),
    "no original_width": (payload(without(POINT, "original_width")), 400, "result[0].original_width"),
    "original_height is zero": (
        payload({**POINT, "original_height": 0}),
        400,
        "original_height must be a whole number",
    ),
    "is_positive is a string": (payload({**POINT, "is_positive": "true"}), 400, "is_positive must be true or false"),
    "item_index is negative": (payload({**POINT, "item_index": -1}), 400, "item_index must be a whole number"),
    "a page without value list": (payload({**POINT, "item_index": 3}), 400, "no valueList"),
    "labels is a string": (payload(with_value(POINT, labels="Cat")), 400, "value.labels must be a list"),
    "a label is a number": (payload(with_value(POINT, labels=[1])), 400, "value.labels[0] must be"),
    "an unknown label": (payload(key_point(label="Cow")), 422, 'label "Cow" is not in <BrushLabels name="brush">'),
    "only background": (payload({**POINT, "is_positive": False}), 422, "no foreground prompt"),
    "a rectangle without width": (payload(rectangle(1, 1, None, 5)), 400, "value.width must be a number"),
    "an empty rectangle": (payload(rectangle(10, 10, 0, 5)), 422, "rectangle is empty"),
    "a rectangle across the border": (payload(rectangle(90, 10, 20, 5)), 422, "coordinate 110.0%"),
    "a rectangle turned by a word": (payload(rectangle(1, 1, 5, 5, rotation="up")), 400, "value.rotation"),
    "a turned rectangle outside": (payload(rectangle(100, 50, 5, 5, rotation=-45.0)), 422, "lies outside"),
    "two image sizes": (payload(POINT, key_point(id="b", original_width=9)), 400, "original_width/height"),
    "another image size": (
        payload(key_point(original_width=640)),
        422,
        "image is 64x48 pixels, but Label Studio showed",
    ),
    "config is no XML": (payload(POINT, config="<View"), 422, "labeling config cannot be parsed"),
    "config is an entity bomb": (payload(POINT, config=BOMB), 422, "document type declaration"),
    "config without image": (payload(POINT, config="<View/>"), 422, 'add <Image name="image" value="$image"/>'),
    "config without output": (payload(POINT, config=f"<View>{IMAGE}</View>"), 422, "add <BrushLabels"),
    "config without prompts": (
        payload(POINT, config=CONFIG.replace('smart="true"', 'smart="false"')),
        422,
        'smart="true" in <KeyPointLabels',
    ),
    "config is far too long": (payload(POINT, config=CONFIG + " " * 600_000), 422, "more than 500000 characters"),
    "bucket without task": (payload(POINT, image="s3://b/a.png", id=None), 424, "task's id"),
    "data URL without base64": (payload(POINT, image="data:image/png,abc"), 422, "not an image"),
    "data URL with broken base64": (payload(POINT, image="data:image/png;base64,a"), 422, "cannot be decoded"),
    "data URL too large": (payload(POINT, image=data_url(bytes(300_000))), 413, "data URL is larger"),
    "no image at all": (payload(POINT, image=data_url(b"hello")), 422, "not an image"),
    "an empty image": (payload(POINT, image=data_url(b"")), 422, "not an image"),
    "an image cut off before its first row": (payload(POINT, image=data_url(png()[:45])), 422, "shows nothing"),
    "a format nobody opens": (payload(POINT, image=data_url(ppm())), 422, "not an image of the formats JPEG"),
    "too many pixels": (payload(POINT, image=data_url(png(1001, 1000))), 413, "1001x1000 pixels"),
    "lone surrogates everywhere": (
        payload(key_point(id="\ud800", label="\ud800"), config=CONFIG.replace("Dog", "\ud800"), image="/\ud800"),
        400,
        "result[0].id must be valid Unicode",
    ),
    "a project of several lines": (changed(project="1\nCRITICAL: forged"), 400, "project must be a whole number, or"),
    "a task of several lines": (payload(POINT, id="7\x1b[2J"), 400, "tasks[0].id must be a whole number, or"),
    "a lone surrogate in the config": (
        payload(POINT, config=CONFIG.replace("Dog", "\ud800")),
        422,
        "labeling config cannot be parsed",
    ),
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    studio = FakeLabelStudio()
    limits = {"max_image_bytes": 200_000, "max_image_pixels": 1_000_000}
    app = create_app(settings(label_studio_url=studio.url, label_studio_api_key=LEGACY, **limits), DiscPool())
    with serving(app) as port:
        yield port
    studio.close()


def check(answer: tuple[int, str, bytes], status: int, cause: str) -> None:
    found, reason, body = answer
    assert (found, cause in reason) == (status, True), (found, reason)
    require_explained(found, reason, json.loads(body))


@pytest.mark.parametrize("name", list(BODIES))
def test_a_malformed_predict_request_is_told_its_cause(port: int, name: str) -> None:
    body, status, cause = BODIES[name]
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    check(send(port, "POST", "/predict", encoded, Content_Type="application/json"), status, cause)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
@pytest.mark.parametrize("path", ["/predict", "/setup"])
def test_another_content_type_is_told_so(port: int, path: str, kind: str) -> None:
    check(send(port, "POST", path, b"{}", Content_Type=kind), 400, "Content-Type must be application/json")


SETUPS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no schema": ({"project": "1.1"}, 400, "schema must be"),
    "schema is a list": ({"schema": []}, 400, "schema must be"),
    "schema is no XML": ({"schema": "<View"}, 422, "cannot be parsed"),
    "schema is an entity bomb": ({"schema": BOMB}, 422, "document type declaration"),
    "schema cannot show masks": ({"schema": f"<View>{IMAGE}</View>"}, 422, "add <BrushLabels"),
    "project is an object": ({"schema": CONFIG, "project": {}}, 400, "project must be"),
}


@pytest.mark.parametrize("name", list(SETUPS))
def test_a_malformed_setup_request_is_told_its_cause(port: int, name: str) -> None:
    body, status, cause = SETUPS[name]
    check(send(port, "POST", "/setup", body), status, cause)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("DELETE", "/setup", 405), ("POST", "/health", 405), ("GET", "/../etc/passwd", 404)],
)
def test_a_wrong_method_or_path_is_told_so(port: int, method: str, path: str, status: int) -> None:
    found, reason, _ = send(port, method, path)
    assert found == status
    assert reason


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        (None, "set LABEL_STUDIO_API_KEY"),
        ("mistyped", "legacy tokens are switched off"),
        ("mistyped.personal.token", "the personal access token is wrong"),
        ("line\nbreak", "LABEL_STUDIO_API_KEY is not a valid token"),
    ],
)
def test_a_wrong_token_is_told_so_without_showing_it(key: str | None, cause: str) -> None:
    studio = FakeLabelStudio()
    app = create_app(settings(label_studio_url=studio.url, label_studio_api_key=key), DiscPool())
    with serving(app) as port:
        answer = send(port, "POST", "/predict", payload(POINT))
    studio.close()
    check(answer, 424, cause)
    assert key is None or key not in answer[1]


def test_an_animation_is_no_mistake_its_first_frame_is_used(port: int) -> None:
    status, _, _ = send(port, "POST", "/predict", payload(POINT, image=data_url(gif(), "image/gif")))
    assert status == 200


def test_the_server_still_answers_after_all_of_them(port: int) -> None:
    assert send(port, "POST", "/predict", payload(POINT))[0] == 200
