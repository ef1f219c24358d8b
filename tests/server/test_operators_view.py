"""What an operator sees of a server of two workers whose cache folder cannot be written: health, page, metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from label_studio_fakes import CountingMedia, key_point, payload, settings
from prometheus_client.parser import text_string_to_metric_families
from waiting import until

from m2n2_backend.server.app import create_app
from m2n2_backend.worker.local.pool import ProcessPool


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in whose place is a file: root, too, is refused there."""
    folder = tmp_path_factory.mktemp("cache") / "images"
    folder.write_text("not a folder")
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[FlaskClient]:
    own = settings(backbone="color", grid=8, device="cpu", workers=2, cache_dir=folder.parent)
    pool = ProcessPool(own)
    try:
        until(lambda: all(worker.alive for worker in pool.stats()) and len(pool.stats()) == 2)
        until(lambda: all(worker.figures.tiers["disk"].troubled for worker in pool.stats()))
        yield create_app(own, pool, CountingMedia()).test_client()
    finally:
        pool.close()


def test_the_metrics_are_what_the_parser_of_prometheus_takes_and_name_nothing_twice(client: FlaskClient) -> None:
    assert client.post("/predict", json=payload(key_point())).status_code == 200
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    names = Counter(family.name for family in families)
    samples = Counter(
        (sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples
    )

    assert [name for name, count in names.items() if count > 1] == []
    assert [sample for sample, count in samples.items() if count > 1] == []
    workers = {dict(labels)["worker"] for name, labels in samples if name == "m2n2_worker_silence"}
    assert workers == {"0", "1"}
    assert {"m2n2_worker_silence", "m2n2_cache_failures", "m2n2_cache_damaged", "m2n2_cache_paused"} <= set(names)


def test_health_is_ready_and_names_the_folder_once(client: FlaskClient, folder: Path) -> None:
    health = client.get("/health").json
    assert health["state"] == "ready"
    assert health["detail"].count(f"the cache in {folder} cannot be written (Not a directory) since ") == 1
    assert health["detail"].endswith(": images are encoded again after a restart")


def test_the_page_shows_it_in_red_at_the_top_and_in_the_caches_row(client: FlaskClient, folder: Path) -> None:
    page = client.get("/", headers={"Accept": "text/html"}).text
    assert f'<th>cause and cure</th><td><span class="bad">the cache in {folder} cannot be written' in page
    assert page.count(f'<span class="bad state">the cache in {folder} cannot be written') == 2


def test_a_click_is_answered_all_the_same(client: FlaskClient) -> None:
    answer = client.post("/predict", json=payload(key_point()))
    assert answer.status_code == 200
    assert answer.json["results"]


def test_the_sentence_goes_when_the_folder_can_be_written_again(client: FlaskClient, folder: Path) -> None:
    folder.unlink()
    until(lambda: client.get("/health").json["detail"] == "")
    assert 'm2n2_cache_paused{tier="disk",worker="0"} 0.0' in client.get("/metrics").text
