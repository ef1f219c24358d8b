"""The page at / and the metrics: what an operator sees at night."""

from __future__ import annotations

import re

import pytest
from fake_label_studio import BRUSH_CONFIG
from flask.testing import FlaskClient
from label_studio_fakes import CONFIG, CountingMedia, DiscPool, key_point, labels, payload, settings
from waiting import until

from m2n2_backend.errors import LabelStudioUnavailable
from m2n2_backend.server.app import create_app
from m2n2_backend.server.status_page import KEPT, Clicks, RecentRequests, without_secrets
from m2n2_backend.server.titles import MAX_PROJECTS, ProjectTitles

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def page(client: FlaskClient) -> str:
    answer = client.get("/", headers=HTML)
    assert answer.mimetype == "text/html"
    return str(answer.text)


def test_a_browser_gets_a_page_and_a_program_json(client: FlaskClient) -> None:
    assert "<h1>m2n2-backend" in page(client)
    assert client.get("/").json["backbone"] == "discs"


def test_the_page_tells_backbone_device_and_cache_fill(client: FlaskClient) -> None:
    text = page(client)

    for part in (
        "discs",
        "paper",
        "disc-1",
        "device cache",
        "disk cache",
        "(10 %)",
        "5 hits",
        "1 restarts",
        "on a step for 2 s",
        "latest answer from view 481x321 at 962,0 (about the box)",
    ):
        assert part in text


def test_the_page_tells_why_the_model_cannot_work(client: FlaskClient, pool: DiscPool) -> None:
    pool.state = "failed"

    assert "no weights: run m2n2-backend fetch-weights" in page(client)


def test_the_page_tells_why_the_last_click_failed(client: FlaskClient) -> None:
    client.post("/predict", json=payload(key_point()))
    client.post("/predict", json=payload(key_point(label="Cow")))
    text = page(client)

    assert "POST /predict" in text
    assert (
        "add &lt;Label value=&#34;Cow&#34;/&gt; there" in text
        or "add &lt;Label value=&quot;Cow&quot;/&gt; there" in text
    )


def test_labels_cannot_write_html_into_the_page(client: FlaskClient) -> None:
    name = "&lt;script&gt;alert(1)&lt;/script&gt;"
    config = CONFIG.replace(labels("Cat", "Dog", "Cow"), labels("Cat", name))
    client.post("/predict", json=payload(key_point(label="<script>alert(1)</script>"), config=config))

    assert "<script" not in page(client)
    assert client.get("/", headers=HTML).headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "secret",
    [
        "https://bucket.s3.amazonaws.com/a.png?X-Amz-Signature=bucketsecret&X-Amz-Credential=bucketsecret",
        "refused the token eyJhbGciOi.eyJ0b2tlbl90.bucketsecret",
        "Token 0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_tokens_are_left_out(secret: str) -> None:
    recent = RecentRequests()
    recent.add("POST /predict", "task 7", 424, secret, 0.1)

    assert "bucketsecret" not in recent.latest()[0].cause
    assert "0123456789abcdef" not in recent.latest()[0].cause
    assert without_secrets("add <Label value='Dog'/> there") == "add <Label value='Dog'/> there"


def test_only_the_latest_requests_are_kept() -> None:
    recent = RecentRequests()
    for index in range(KEPT + 5):
        recent.add("POST /predict", "", 200, "", index)

    assert len(recent.latest()) == KEPT
    assert recent.latest()[0].milliseconds == 1000.0 * (KEPT + 4)


def test_the_page_tells_the_score_and_how_long_clicks_take(client: FlaskClient) -> None:
    assert "p95" not in page(client)
    client.post("/predict", json=payload(key_point()))
    text = page(client)
    assert re.search(r"latest 1 clicks .* at most \d+ ms \(p50\), 95 % at most \d+ ms \(p95\)", text)
    assert re.search(r'<td class="n">0\.\d\d</td>', text)


def test_the_percentiles_are_of_the_clicks_that_have_a_mask() -> None:
    recent = RecentRequests()
    assert recent.clicks() is None
    for index in range(1, 101):
        recent.add("POST /predict", "", 200, "", index / 1000, 0.5)
    recent.add("POST /predict", "", 503, "busy", 90.0)
    assert recent.clicks() == Clicks(100, 50.5, 95.0, 0.5)


def test_setups_that_went_well_are_folded_and_push_no_click_out(client: FlaskClient) -> None:
    client.post("/predict", json=payload(key_point()))
    for _ in range(KEPT + 5):
        client.post("/setup", json={"project": "1.7", "schema": BRUSH_CONFIG})
    client.post("/setup", json={"project": "1.7", "schema": "<View>"})
    shown, folded = page(client).split("<details>")
    assert shown.count("POST /predict") == 1
    assert shown.count("POST /setup") == 1  # the one that failed
    assert folded.count("POST /setup") == KEPT


def test_the_projects_title_stands_beside_its_number_once_it_is_known(pool: DiscPool, media: CountingMedia) -> None:
    asked: list[int] = []

    def ask(project: int) -> str:
        asked.append(project)
        if project == 2:
            raise LabelStudioUnavailable("no")
        return "<b>Street</b>"

    titles = ProjectTitles(ask)
    client = create_app(settings(), pool, media, titles=titles).test_client()
    for project in ("1.7", "2.7", "nonsense"):
        client.post("/predict", json={**payload(key_point()), "project": project})
        until(lambda: not titles.is_asking)
    client.post("/predict", json={**payload(key_point()), "project": "1.7"})
    assert asked == [1, 2]
    assert page(client).count("&lt;b&gt;Street&lt;/b&gt;: project 1.7") == 2


def test_invented_projects_lead_to_a_bounded_number_of_questions() -> None:
    asked: list[int] = []
    titles = ProjectTitles(lambda project: str(asked.append(project)))
    for project in range(MAX_PROJECTS + 20):
        titles.want(f"{project}.7")
        until(lambda: not titles.is_asking)
    assert len(asked) == MAX_PROJECTS


def test_metrics_tell_outcomes_caches_and_workers(client: FlaskClient, pool: DiscPool) -> None:
    client.post("/predict", json=payload(key_point()))
    pool.state = "loading"
    client.post("/predict", json=payload(key_point()))
    text = client.get("/metrics").text

    for line in (
        'm2n2_segments_total{kind="clicks",outcome="ok"} 1.0',
        'm2n2_segments_total{kind="clicks",outcome="NotReady"} 1.0',
        'm2n2_worker_waiting{worker="0"} 4.0',
        'm2n2_worker_age{worker="0"} 1.5',
        'm2n2_worker_silence{worker="0"} 0.5',
        'm2n2_worker_restarts_total{worker="0"} 1.0',
        'm2n2_worker_superseded_total{worker="0"} 2.0',
        'm2n2_worker_timed_out_total{worker="0"} 3.0',
        'm2n2_worker_refused_total{worker="0"} 6.0',
        'm2n2_worker_encoded_total{worker="0"} 7.0',
        'm2n2_cache_bytes{tier="disk",worker="0"} 10.0',
        'm2n2_cache_hits_total{tier="memory",worker="0"} 5.0',
        'm2n2_cache_evictions_total{tier="device",worker="0"} 2.0',
    ):
        assert line in text
