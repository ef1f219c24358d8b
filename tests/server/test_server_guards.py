import base64
import gc
import itertools
import json
import logging
import socket
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_label_studio import LEGACY, FakeLabelStudio
from flask.testing import FlaskClient
from label_studio_fakes import CONFIG, CountingMedia, DiscPool, key_point, payload, send, serving, settings
from questions import require_explained
from waiting import until

from m2n2_backend.errors import M2N2Error, NotReady, SettingsError
from m2n2_backend.labelstudio.images.cached import CachedImages
from m2n2_backend.labelstudio.images.reader import MediaReader
from m2n2_backend.server.app import create_app
from m2n2_backend.server.errors import MAX_PHRASE, STATUS, reason_phrase
from m2n2_backend.worker.figures import WorkerStats


def test_an_unexpected_error_is_told_by_a_number_and_logged_with_it(
    client: FlaskClient, pool: DiscPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.segment = lambda *args, **kwargs: 1 / 0
    with caplog.at_level(logging.ERROR):
        answer = client.post("/predict", json=payload(key_point()))
    assert answer.status_code == 500
    identity = answer.json["detail"].split()[2].rstrip(":")
    (record,) = [record for record in caplog.records if identity in record.getMessage()]
    assert record.exc_info[0] is ZeroDivisionError


def test_secrets_are_never_logged(pool: DiscPool, caplog: pytest.LogCaptureFixture) -> None:
    studio = FakeLabelStudio()
    app = create_app(settings(label_studio_url=studio.url, label_studio_api_key="sesame" * 5), pool)
    with caplog.at_level(logging.DEBUG):
        body = payload(key_point(), image="/data/upload/a.png?sig=sesame")
        answer = app.test_client().post("/predict", json=body)
    studio.close()
    assert answer.status_code == 424
    assert "LABEL_STUDIO_API_KEY" in answer.status
    assert "sesame" not in caplog.text + answer.text + answer.status


def test_every_kind_of_error_has_a_status() -> None:
    kinds = set(M2N2Error.__subclasses__())
    assert kinds == set(STATUS)
    assert STATUS[NotReady] == 503


@pytest.mark.parametrize(
    ("message", "phrase"),
    [
        ("plain", "plain"),
        ("two\r\nSet-Cookie: a=b", "two Set-Cookie: a=b"),
        ("größe … \x00\x7f \ud800", "grosse ..."),
        ('label "Кошка" or "猫" is not there', 'label "Koshka" or "Mao" is not there'),
        ("tab\tand  spaces", "tab and spaces"),
    ],
)
def test_a_reason_phrase_is_one_line_of_ascii(message: str, phrase: str) -> None:
    assert reason_phrase(message) == phrase


def test_a_reason_phrase_is_short() -> None:
    assert len(reason_phrase("word " * 500)) <= MAX_PHRASE


CREDENTIALS = {"basic_auth_user": "annotator", "basic_auth_password": "pässword"}


@pytest.mark.parametrize(
    ("method", "path", "header"),
    [
        ("GET", "/", None),
        ("GET", "/health", "Basic"),
        ("POST", "/setup", "Basic !!!"),
        ("POST", "/predict", "Bearer abc"),
        ("POST", "/predict", None),
        ("GET", "/versions", "Basic " + base64.b64encode(b"annotator").decode()),
        ("GET", "/metrics", "Basic " + base64.b64encode(b"annotator:wrong").decode()),
        ("GET", "/nowhere", "Basic " + base64.b64encode(b"x:p\xe4ssword").decode()),
        ("GET", "/openapi.json", "Basic \xff"),
    ],
)
def test_basic_auth_guards_every_route_but_the_webhook(
    pool: DiscPool, method: str, path: str, header: str | None
) -> None:
    client = create_app(settings(**CREDENTIALS), pool).test_client()
    answer = client.open(path, method=method, headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert pool.calls == []


def test_basic_auth_lets_the_right_credentials_in_and_the_webhook_always(pool: DiscPool) -> None:
    client = create_app(settings(**CREDENTIALS), pool).test_client()
    assert client.get("/health", auth=("annotator", "pässword")).status_code == 200
    assert client.post("/webhook", json={}).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/webhook"), ("POST", "/webhook/"), ("POST", "/Webhook")])
def test_what_is_not_the_webhooks_route_needs_credentials(pool: DiscPool, method: str, path: str) -> None:
    client = create_app(settings(**CREDENTIALS), pool).test_client()
    assert client.open(path, method=method).status_code == 401


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
@pytest.mark.parametrize(
    ("user", "password"), [("annotator", "pässword"), ("Zoë", "p§ss:wörd"), ("Zoe\u0308", "pa\u0308ssword")]
)
def test_credentials_beyond_ascii_are_right_in_label_studios_encoding_and_in_utf_8(
    pool: DiscPool, user: str, password: str, encoding: str
) -> None:
    client = create_app(settings(basic_auth_user=user, basic_auth_password=password), pool).test_client()

    def status(*pair: str) -> int:
        sent = unicodedata.normalize("NFC", ":".join(pair)).encode(encoding)
        header = {"Authorization": f"Basic {base64.b64encode(sent).decode()}"}
        return client.get("/health", headers=header).status_code

    assert status(user, password) == 200
    assert {status(user, f"{password}?"), status(user, "pa?ssword"), status("Zoe", password), status(user)} == {401}


@pytest.mark.parametrize("name", list(CREDENTIALS))
@pytest.mark.parametrize("text", ["пароль", "10€", "\udce4", "secret\n", " secret"])
def test_what_label_studio_cannot_send_is_refused_at_the_start(pool: DiscPool, name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"M2N2_{name.upper()} .*Label Studio (cannot send|removes)") as refusal:
        create_app(settings(**{**CREDENTIALS, name: text}), pool)
    assert text not in str(refusal.value)


def test_a_user_name_with_a_colon_is_refused_at_the_start(pool: DiscPool) -> None:
    with pytest.raises(SettingsError, match="M2N2_BASIC_AUTH_USER holds a colon"):
        create_app(settings(basic_auth_user="a:b", basic_auth_password="c"), pool)


@pytest.mark.parametrize(
    ("method", "path", "phrase"),
    [
        ("GET", "/m2n2/health", "does not strip the prefix /m2n2 before /health"),
        ("POST", "/anything/predict", "does not strip the prefix /anything before /predict"),
        ("POST", "/ml/m2n2/setup", "does not strip the prefix /ml/m2n2 before /setup"),
        ("GET", "/m2n2/health/", "does not strip the prefix /m2n2 before /health"),
        ("GET", f"/{'x' * 300}/health", "before /health: let it do so (nginx: a / at the end of proxy_pass)"),
        ("GET", "/health/", "write /health, without a slash at its end"),
        ("GET", "/nowhere", "this server has no /nowhere: its routes are /, /health"),
        ("GET", "/m2n2/", "this server has no /m2n2/: its routes are /, /health"),
    ],
)
def test_a_path_that_is_not_a_route_says_what_to_do(client: FlaskClient, method: str, path: str, phrase: str) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == 404
    assert phrase in answer.status
    assert "spelling" not in answer.text


@pytest.mark.parametrize("given", list(CREDENTIALS))
def test_half_of_the_credentials_are_a_mistake(pool: DiscPool, given: str) -> None:
    with pytest.raises(SettingsError, match="set both or none"):
        create_app(settings(**{given: CREDENTIALS[given]}), pool)


def test_metrics_count_routes_and_never_invented_paths(client: FlaskClient, pool: DiscPool) -> None:
    client.get("/health")
    client.get("/invented-path")
    client.post("/predict", json=payload(key_point(150, 0)))
    text = client.get("/metrics").text
    assert 'm2n2_http_requests_total{route="/health",status="200"} 1.0' in text
    assert 'm2n2_http_requests_total{route="/predict",status="422"} 1.0' in text
    assert "m2n2_model_ready 1.0" in text
    assert "invented" not in text


def test_two_apps_share_no_metrics(pool: DiscPool, client: FlaskClient) -> None:
    client.get("/health")
    other = create_app(settings(), pool, CountingMedia()).test_client()
    assert 'route="/health"' not in other.get("/metrics").text


def test_a_wrong_method_says_which_are_allowed(client: FlaskClient) -> None:
    answer = client.get("/predict")
    assert (answer.status_code, "POST" in answer.headers["Allow"]) == (405, True)


def test_a_body_over_the_limit_is_refused_by_its_announcement(pool: DiscPool) -> None:
    with (
        serving(create_app(settings(), pool, CountingMedia())) as port,
        socket.create_connection(("127.0.0.1", port)) as sock,
    ):
        sock.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (settings().max_body_bytes + 1)
        )
        assert sock.recv(200).startswith(b"HTTP/1.1 413 the request is larger than ")


@pytest.mark.parametrize("body", [b"[" * 1_000_001, b'{"tasks":' + b"[]," * 1_000_001, b'{"a":' * 1_000_001])
def test_a_body_of_millions_of_lists_is_refused_before_it_is_parsed(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/predict", data=body, content_type="application/json")
    assert answer.status == "400 the request has more than 1000000 lists and objects"


def keys(number: int, *, end: bytes = b"", colon: bytes = b":") -> bytes:
    return b"{" + b",".join(b'"%d%b"%b1' % (index, end, colon) for index in range(number)) + b"}"


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (keys(100_001), "more than 100000 different keys"),
        (keys(100_001, colon=b" \n\t:"), "more than 100000 different keys"),
        (keys(100_001, end=b'\\"'), "more than 100000 different keys"),
        (b"[" + b",".join(b'{"%d":1}' % index for index in range(100_001)) + b"]", "more than 100000 different keys"),
        (b"[" + b"1," * 10_000_001 + b"1]", "has more than 10000000 values"),
    ],
    ids=["keys", "keys and spaces", "keys that end alike", "keys of many objects", "numbers"],
)
def test_a_body_of_too_many_parts_is_refused_before_it_is_parsed(
    client: FlaskClient, body: bytes, parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydantic_core.from_json", None)
    monkeypatch.setattr("json.loads", None)
    answer = client.post("/predict", data=body, content_type="application/json")
    assert (answer.status_code, parts in answer.status) == (400, True)


@pytest.mark.parametrize(
    "data",
    [
        b'{"rle": [' + b"255," * 1_000_000 + b"0]}",
        b'{"times": "' + b"12:34:56, " * 200_000 + b'"}',
        b'{"many": [' + b'{"id": 1, "text": "a:b"},' * 100_000 + b"0]}",
        b'{"points": [' + b"[12.5,45.25]," * 500_000 + b"[0,0]]}",
    ],
    ids=["a brush", "colons and commas in a text", "objects alike", "polygons"],
)
def test_a_large_body_that_label_studio_may_send_is_read(client: FlaskClient, data: bytes) -> None:
    body = b'{"tasks": [{"id": 1, "data": ' + data + b"}]}"
    assert client.post("/predict", data=body, content_type="application/json").json == {"results": [[]]}


def test_a_large_body_that_is_broken_at_its_end_is_parsed_only_once(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("json.loads", None)
    answer = client.post("/predict", data=b"[" + b"1," * 1_000_000, content_type="application/json")
    assert answer.status.startswith("400 the request is not valid JSON: ")


def test_the_openapi_document_is_made_once(pool: DiscPool, monkeypatch: pytest.MonkeyPatch) -> None:
    client = create_app(settings(), pool, CountingMedia()).test_client()
    monkeypatch.setattr("m2n2_backend.server.app.openapi", None)
    assert client.get("/openapi.json").json["info"]["title"] == "m2n2-backend"


def test_while_metrics_are_made_others_get_the_latest_ones(pool: DiscPool, monkeypatch: pytest.MonkeyPatch) -> None:
    client = create_app(settings(), pool, CountingMedia()).test_client
    assert client().get("/metrics").status_code == 200
    begun, go_on = threading.Event(), threading.Event()

    def stats() -> list[WorkerStats]:
        begun.set()
        assert go_on.wait(60)
        return []

    monkeypatch.setattr(pool, "stats", stats)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(lambda: client().get("/metrics").text)
        assert begun.wait(60)
        assert "m2n2_worker_alive{" in client().get("/metrics").text
        go_on.set()
        assert "m2n2_worker_alive{" not in slow.result()


def test_what_only_the_standard_librarys_parser_takes_is_read(client: FlaskClient) -> None:
    body = b'{"tasks": [{"id": 1, "data": {"text": "\\ud800"}}]}'
    assert client.post("/predict", data=body, content_type="application/json").json == {"results": [[]]}


def test_a_failure_names_project_and_task_in_the_log_and_on_the_page(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = payload(key_point(label="Cow"), id=4711)
    with caplog.at_level(logging.INFO):
        client.post("/predict", json=body)
        client.post("/predict", json=payload(key_point(), id="a-7"))
        client.post("/predict", json={**payload(key_point(50, 200)), "project": "3.17"})
        client.post("/predict", json={"tasks": [{"id": [1]}], "project": {}})
    first, second, third, fourth = [record.getMessage() for record in caplog.records]
    assert first.startswith('POST /predict (project 1.1795354407, task 4711): 422 label "Cow" is not in')
    assert second.startswith("project 1.1795354407, task a-7: 1 clicks")
    assert third.startswith("POST /predict (project 3.17, task 7): 422 ")
    assert fourth.startswith("POST /predict: 400 ")
    page = client.get("/", headers={"Accept": "text/html"}).text
    for named in ("project 1.1795354407, task 4711", "project 1.1795354407, task a-7", "project 3.17, task 7"):
        assert named in page


def test_a_label_of_another_script_can_be_read_where_label_studio_shows_it(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    config = CONFIG.replace("Cow", "Größe Кошка")
    with serving(client.application) as port:
        status, reason, body = send(port, "POST", "/predict", payload(key_point(label="Größe Кошка"), config=config))
    assert (status, reason.partition(" is not")[0]) == (422, 'label "Grosse Koshka"')
    assert "Größe Кошка" in json.loads(body)["detail"]
    assert 'label "Größe Кошка" is not' in caplog.text
    assert "Größe Кошка" in client.get("/", headers={"Accept": "text/html"}).text


def test_an_image_that_drips_in_is_told_to_have_timed_out() -> None:
    studio, began, looks = FakeLabelStudio(), time.monotonic(), itertools.count()
    own = settings(label_studio_url=studio.url, label_studio_api_key=LEGACY)
    # A second passes at each look at the clock, so that the test waits for none.
    reader = MediaReader(own, clock=lambda: began + next(looks))
    with serving(create_app(own, DiscPool(), reader)) as port:
        status, phrase, body = send(port, "POST", "/predict", payload(key_point(), image="/slow"))
    assert (status, "timed out" in phrase) == (424, True)
    require_explained(status, phrase, json.loads(body))
    studio.close()


def test_slow_downloads_refuse_no_click_on_a_known_image(studio: FakeLabelStudio, pool: DiscPool) -> None:
    ours = settings(label_studio_url=studio.url, label_studio_api_key=LEGACY, http_threads=2, download_timeout=20)
    with serving(create_app(ours, pool, CachedImages.of(ours))) as port, ThreadPoolExecutor(2) as threads:
        assert send(port, "POST", "/predict", payload(key_point(), image="/data/a.png"))[0] == 200
        slow = [
            threads.submit(send, port, "POST", "/predict", payload(key_point(), image=f"/held/{number}"))
            for number in range(2)
        ]
        until(lambda: len(studio.requests) + sum(one.done() for one in slow) == 3)
        assert send(port, "POST", "/predict", payload(key_point(), image="/data/a.png"))[0] == 200
        studio.held.set()
        assert {one.result()[0] for one in slow} == {424, 503}


def test_reading_a_large_body_is_not_slowed_by_the_garbage_collector(client: FlaskClient) -> None:
    body = b'{"tasks": [{"annotations": [' + b"[]," * 500_000 + b"[]]}]}"
    runs: list[str] = []

    def count(phase: str, _: object) -> None:
        runs.append(phase)

    gc.callbacks.append(count)
    try:
        assert client.post("/predict", data=body, content_type="application/json").json == {"results": [[]]}
    finally:
        gc.callbacks.remove(count)
    assert gc.isenabled()
    assert len(runs) < 100  # of 1400


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_body_that_is_not_utf_8_is_refused(client: FlaskClient, encoding: str) -> None:
    body = '{"tasks": [], "more": "\\ud800 \u755c\u3864"}'
    assert client.post("/predict", data=body.encode(), content_type="application/json").status_code == 200
    assert client.post("/predict", data=body.encode("utf-8-sig"), content_type="application/json").status_code == 200
    answer = client.post("/predict", data=body.encode(encoding), content_type="application/json")
    assert answer.status.startswith("400 the request is not valid JSON: ")


def test_a_header_of_thousands_of_types_costs_little_more_than_a_short_one(client: FlaskClient) -> None:
    def seconds(accept: str) -> float:
        began = time.process_time()
        for _ in range(5):
            assert client.get("/", headers={"Accept": accept}).status_code == 200
        return time.process_time() - began

    seconds("*/*")
    assert seconds(",".join(f"a/b{number}" for number in range(7000))) < 100 * seconds("*/*")
