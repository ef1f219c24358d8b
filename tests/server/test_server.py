import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fake_label_studio import HEIGHT, LEGACY, WIDTH, FakeLabelStudio, png
from flask.testing import FlaskClient
from label_studio_fakes import (
    CONFIG,
    CountingMedia,
    DiscPool,
    data_url,
    key_point,
    payload,
    rectangle,
    send,
    serving,
    settings,
)
from label_studio_sdk.converter.brush import decode_rle
from listening import HeldPool
from PIL import Image
from waiting import until

from m2n2_backend.resources import label_config
from m2n2_backend.server.app import MAX_PROJECTS, create_app
from m2n2_backend.worker.interface import Answer, Work


def test_health_is_up_while_the_model_loads(client: FlaskClient, pool: DiscPool) -> None:
    pool.state = "loading"
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json["status"] == "UP"
    assert (answer.json["model_class"], answer.json["state"]) == ("M2N2", "loading")


def test_health_names_the_cause_where_the_model_failed(client: FlaskClient, pool: DiscPool) -> None:
    pool.state = "failed"
    assert client.get("/health").status == "503 no weights: run m2n2-backend fetch-weights"


def test_setup_answers_the_model_version(client: FlaskClient) -> None:
    answer = client.post(
        "/setup", json={"project": "1.2", "schema": CONFIG.replace('"Cow"', '"Dog"'), "hostname": ""}
    )
    assert answer.json["model_version"] == "disc-1"
    assert "warnings" not in answer.json


def test_setup_hints_at_the_config_that_spares_keys_and_logs_it_once_a_project(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for project in ("1.2", "1.2", "2.2"):
        body = {"project": project, "schema": label_config("old/polygon").read_text(encoding="utf-8")}
        answer = client.post("/setup", json=body)
        assert "label_config/polygon.xml" in answer.json["hints"][0]
    told = [line for line in caplog.messages if "label_config/polygon.xml" in line]
    assert [line.partition(":")[0] for line in told] == ["project 1.2", "project 2.2"]
    answer = client.post("/setup", json={"schema": label_config("polygon").read_text(encoding="utf-8")})
    assert not any("polygon.xml" in hint for hint in answer.json["hints"])


@pytest.mark.parametrize("extra", [None, {"any": "object"}, "text", [1]])
def test_setup_takes_any_extra_params_and_lists_warnings(client: FlaskClient, extra: Any) -> None:
    smart = CONFIG.replace('smart="false"', 'smart="true"').replace('"Cow"', '"Dog"')
    body = {"project": "1.2", "schema": smart, "hostname": "http://localhost:8080", "access_token": "x"}
    answer = client.post("/setup", json={**body, "extra_params": extra})
    assert answer.status_code == 200
    assert 'smart="false"' in answer.json["warnings"][0]


def test_setup_refuses_a_config_whose_clicks_could_not_all_be_answered(client: FlaskClient) -> None:
    answer = client.post("/setup", json={"project": "1.2", "schema": CONFIG})
    assert answer.status == '422 label "Cow" is not in <BrushLabels name="brush">: add <Label value="Cow"/> there'


def test_setup_explains_a_bad_config_in_the_status_line(client: FlaskClient) -> None:
    answer = client.post("/setup", json={"project": "1.2", "schema": '<View><Image name="i" value="$i"/></View>'})
    assert answer.status.startswith('422 no control can show a mask: add <BrushLabels name="brush"')
    assert answer.json["error"] == "InvalidLabelConfig"


def test_versions_lists_the_model_version(client: FlaskClient) -> None:
    assert client.get("/versions").json == {"versions": ["disc-1"]}


def test_webhook_accepts_whatever_comes(client: FlaskClient) -> None:
    assert client.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200
    assert client.post("/webhook", data=b"\xff").status_code == 200


def test_the_index_tells_what_runs(client: FlaskClient) -> None:
    assert client.get("/").json["backbone"] == "discs"


@pytest.mark.parametrize(
    "params",
    [None, {}, {"context": None}, {"context": {}}, {"context": {"result": None}}, {"context": {"result": []}}],
)
def test_without_prompts_every_task_gets_an_empty_list_and_nothing_is_touched(
    client: FlaskClient, pool: DiscPool, media: CountingMedia, params: Any
) -> None:
    body = payload()
    body.update(tasks=body["tasks"] * 3, params=params, label_config="<broken")
    answer = client.post("/predict", json=body)
    assert answer.json == {"results": [[], [], []]}
    assert (pool.calls, media.refs) == ([], [])


def test_no_tasks_give_no_results(client: FlaskClient) -> None:
    assert client.post("/predict", json={"tasks": []}).json == {"results": []}


def test_a_click_gives_the_mask_of_the_model(client: FlaskClient, pool: DiscPool) -> None:
    answer = client.post("/predict", json=payload(key_point(25, 75)))
    (result,) = answer.json["results"]
    assert (result["score"], result["model_version"]) == (0.875, "disc-1")
    (region,) = result["result"]
    ((_, prompts),) = pool.calls
    decoded = decode_rle(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
    expected = pool.mask(prompts, WIDTH, HEIGHT).astype(np.uint8) * 255
    assert np.array_equal(decoded, np.repeat(expected[..., None], 4, axis=2))


def test_a_rectangle_gives_a_mask_too(client: FlaskClient) -> None:
    (result,) = client.post("/predict", json=payload(rectangle(25, 25, 50, 50))).json["results"]
    decoded = decode_rle(result["result"][0]["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0
    assert decoded.sum() == 32 * 24


def test_only_submitted_prompts_give_an_empty_answer(client: FlaskClient, pool: DiscPool) -> None:
    body = payload(key_point(id="old"), annotations=[{"result": [key_point(id="old")]}])
    assert client.post("/predict", json=body).json == {"results": [[]]}
    assert pool.calls == []


def test_an_empty_mask_is_a_prediction_without_regions(media: CountingMedia) -> None:
    client = create_app(settings(), DiscPool(radius=0), media).test_client()
    (result,) = client.post("/predict", json=payload(key_point())).json["results"]
    assert (result["result"], result["model_version"]) == ([], "disc-1")


def test_the_image_is_compared_with_what_label_studio_showed(client: FlaskClient, pool: DiscPool) -> None:
    answer = client.post("/predict", json=payload(key_point(original_width=HEIGHT, original_height=WIDTH)))
    assert answer.status.startswith("422 the image is 64x48 pixels, but Label Studio showed 48x64")
    assert pool.calls == []


def test_an_image_turned_by_exif_has_the_size_the_browser_shows(pool: DiscPool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(HEIGHT, WIDTH, exif=exif)
    url = data_url(turned)
    client = create_app(settings(), pool).test_client()
    answer = client.post("/predict", json=payload(key_point(), image=url))
    assert answer.status_code == 200


def test_a_model_that_is_not_ready_asks_to_come_back(client: FlaskClient, pool: DiscPool) -> None:
    pool.state = "loading"
    answer = client.post("/predict", json=payload(key_point()))
    assert answer.status == "503 the model is still loading"
    assert int(answer.headers["Retry-After"]) > 0


def test_the_deadline_of_the_settings_reaches_the_model(pool: DiscPool, media: CountingMedia) -> None:
    client = create_app(settings(deadline=1e-9), pool, media).test_client()
    assert client.post("/predict", json=payload(key_point())).status == "503 the deadline passed"


def test_the_hostname_of_setup_is_kept_per_project(client: FlaskClient, media: CountingMedia) -> None:
    client.post("/setup", json={"project": "5.1", "schema": CONFIG, "hostname": "http://labels.test:8080"})
    client.post("/predict", json={**payload(key_point()), "project": "5.1"})
    client.post("/predict", json={**payload(key_point()), "project": "6.1"})
    assert [ref.hostname for ref in media.refs] == ["http://labels.test:8080", None]


FIRST, OTHER = "http://labels.test:8080", "http://elsewhere.test"


def set_up(client: FlaskClient, project: object, hostname: str, **more: Any) -> None:
    client.post("/setup", json={"project": project, "schema": CONFIG, "hostname": hostname}, **more)


def test_without_credentials_the_first_hostname_of_a_project_stays(
    client: FlaskClient, media: CountingMedia, caplog: pytest.LogCaptureFixture
) -> None:
    for hostname in (FIRST, OTHER, FIRST):
        set_up(client, "5.1", hostname)
    client.post("/predict", json={**payload(key_point()), "project": "5.1"})
    assert media.refs[0].hostname == FIRST
    (told,) = [record.getMessage() for record in caplog.records if "hostname" in str(vars(record).get("kind"))]
    assert OTHER in told
    assert "set LABEL_STUDIO_URL" in told


def test_without_credentials_many_projects_do_not_make_the_server_forget_the_first_ones(
    client: FlaskClient, media: CountingMedia
) -> None:
    for number in range(MAX_PROJECTS + 1):
        set_up(client, number, FIRST)
    for number in (0, MAX_PROJECTS):
        client.post("/predict", json={**payload(key_point()), "project": number})
    assert [ref.hostname for ref in media.refs] == [FIRST, None]


def test_with_credentials_the_latest_hostname_counts_for_the_latest_projects(
    pool: DiscPool, media: CountingMedia
) -> None:
    app = create_app(settings(basic_auth_user="a", basic_auth_password="b"), pool, media)
    client, auth = app.test_client(), ("a", "b")
    for number in range(MAX_PROJECTS + 1):
        set_up(client, number, FIRST, auth=auth)
    set_up(client, 1, OTHER, auth=auth)
    for number in (0, 1):
        client.post("/predict", json={**payload(key_point()), "project": number}, auth=auth)
    assert [ref.hostname for ref in media.refs] == [None, OTHER]


def test_a_click_over_real_sockets_reads_the_file_of_label_studio(pool: DiscPool, studio: FakeLabelStudio) -> None:
    app = create_app(settings(label_studio_url=studio.url, label_studio_api_key=LEGACY), pool)
    with serving(app) as port:
        status, reason, body = send(port, "POST", "/predict", payload(key_point()))
        assert (status, reason) == (200, "OK")
        assert json.loads(body)["results"][0]["result"][0]["type"] == "brushlabels"
        status, reason, _ = send(port, "POST", "/predict", payload(key_point(), image="/data/upload/1/none.png"))
    assert status == 424
    assert reason.startswith("image download failed: 404 Not Found from http://127.0.0.1")


def test_concurrent_clicks_are_all_answered(pool: DiscPool, studio: FakeLabelStudio) -> None:
    app = create_app(settings(label_studio_url=studio.url, label_studio_api_key=LEGACY), pool)
    found = []
    with serving(app) as port:
        threads = [
            threading.Thread(target=lambda: found.append(send(port, "POST", "/predict", payload(key_point()))[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [200] * 8


def test_while_as_many_clicks_as_may_wait_for_the_model_all_else_is_answered_at_once(media: CountingMedia) -> None:
    pool = HeldPool()
    pool.gate.clear()
    client = create_app(settings(queue=1), pool, media).test_client
    found: list[int] = []
    body = payload(key_point())
    waiting = threading.Thread(target=lambda: found.append(client().post("/predict", json=body).status_code))
    waiting.start()
    assert pool.entered.wait(60)
    busy = client().post("/predict", json=body)
    assert (busy.status_code, "busy" in busy.status) == (503, True)
    assert client().post("/predict", json={"tasks": [{}]}).json == {"results": [[]]}
    assert client().get("/health").status_code == 200
    assert 'm2n2_segments_total{kind="clicks",outcome="NotReady"} 1.0' in client().get("/metrics").text
    pool.gate.set()
    waiting.join()
    assert found == [200]
    assert client().post("/predict", json=body).status_code == 200


class ColdPool(DiscPool):
    """A model that answers first clicks when it is told to, and others at once."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self._waiting = set[int]()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def segment(self, work: Work) -> Answer:
        if work.image.key not in self.known:
            self._waiting.add(threading.get_ident())
            assert self.go_on.wait(60)
            self._waiting.remove(threading.get_ident())
        return super().segment(work)


def cold_click(number: int, project: str) -> dict[str, Any]:
    address = data_url(png(WIDTH, HEIGHT) + bytes([number]))
    return {**payload(key_point(), image=address, id=number), "project": project}


def test_cold_clicks_refuse_no_warm_one_and_those_of_one_project_none_of_another() -> None:
    pool = ColdPool()
    client = create_app(settings(queue=8), pool).test_client
    warm = cold_click(0, "9")
    assert client().post("/predict", json=warm).status_code == 200
    pool.go_on.clear()

    def ask(number: int, project: str) -> tuple[int, str]:
        answer = client().post("/predict", json=cold_click(number, project))
        return answer.status_code, answer.status

    with ThreadPoolExecutor(30) as threads:
        cold = [threads.submit(ask, number, "1") for number in range(1, 11)]
        until(lambda: pool.waiting + sum(one.done() for one in cold) == 10)
        assert pool.waiting == 4, "half of the places"
        cold += [threads.submit(ask, number, f"{number}") for number in range(11, 21)]
        until(lambda: pool.waiting + sum(one.done() for one in cold) == 20)
        assert pool.waiting == 6, "three quarters"
        assert client().post("/predict", json=warm).status_code == 200
        pool.go_on.set()
    said = [one.result() for one in cold]
    assert [status for status, _ in said].count(200) == 6
    assert all("busy" in phrase for status, phrase in said if status == 503)
    assert ask(99, "1")[0] == 200


def test_the_files_of_clicks_that_wait_are_bounded_in_bytes() -> None:
    pool = ColdPool()
    pool.go_on.clear()
    largest = len(png(WIDTH, HEIGHT)) + 1000
    client = create_app(settings(max_image_bytes=max(1024, largest)), pool).test_client

    def ask(number: int) -> int:
        image = data_url(png(WIDTH, HEIGHT) + bytes([number]) * 900)
        body = {**payload(key_point(), image=image), "project": f"{number}"}
        return client().post("/predict", json=body).status_code

    with ThreadPoolExecutor(20) as threads:
        cold = [threads.submit(ask, number) for number in range(20)]
        until(lambda: pool.waiting + sum(one.done() for one in cold) == 20)
        assert pool.waiting == 6
        pool.go_on.set()


def test_an_image_that_the_model_can_no_longer_hold_counts_as_cold() -> None:
    pool = ColdPool()
    client = create_app(settings(queue=8), pool).test_client
    for number in range(3):
        assert client().post("/predict", json=cold_click(number, f"{number}")).status_code == 200
    pool.known.clear()
    pool.go_on.clear()
    with ThreadPoolExecutor(12) as threads:
        clicks = [
            threads.submit(client().post, "/predict", json=cold_click(number, f"{number}")) for number in range(12)
        ]
        until(lambda: pool.waiting + sum(one.done() for one in clicks) == 12)
        assert pool.waiting == 7, "six places for cold clicks, and one image is said to be held"
        pool.go_on.set()
