"""The benchmark's server is a real one: its masks, its counts, and what is said when it does not start."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench_runs import GRID, SIZE, small_run, small_settings
from werkzeug.serving import make_server
from werkzeug.wrappers import Request as HttpRequest
from werkzeug.wrappers import Response

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.commands.bench import Figures
from m2n2_backend.commands.bench.annotators import Request, load_figures, run_annotators
from m2n2_backend.commands.bench.check import check_masks
from m2n2_backend.commands.bench.client import NO_ANSWER, Answer, Client, decode_mask
from m2n2_backend.commands.bench.photographs import jpeg, photograph
from m2n2_backend.commands.bench.server_process import environment, server
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click


@pytest.fixture(scope="module")
def service() -> Figures:
    return small_run()[0]["service"]


def test_every_mask_of_the_server_equals_the_one_computed_alone(service: Figures) -> None:
    single = 3 + 2 * 3 + 3  # new images, new and repeated clicks, images on disk

    assert service["masks"]["checked"] == single + service["annotators"]["answered"]
    assert service["masks"]["mismatches"] == 0
    assert service["masks"]["largest_difference"] == 0


def test_requests_one_at_a_time_are_told_apart(service: Figures) -> None:
    for name in ("new_image", "new_click", "repeated_request", "disk_image"):
        assert 0 < service[name]["p50"] <= service[name]["p95"]
    assert service["start_seconds"] > 0


def test_the_annotators_counts_fit_together(service: Figures) -> None:
    load = service["annotators"]

    assert (load["count"], load["images"], load["errors"], load["first_error"]) == (3, 4, {}, None)
    assert load["answered"] == load["requests"] >= 3
    assert load["throughput_per_second"] == pytest.approx(load["answered"] / load["seconds"])
    assert 0 < load["latency_ms"]["p50"] <= load["latency_ms"]["p95"] <= load["latency_ms"]["p99"]
    # However many ask for an image, it is encoded once.
    assert load["model_runs"] == load["images_asked"] <= 4
    for when in ("resident_mb_before", "resident_mb_after"):
        assert load[when]["worker"] > 50
        assert load[when]["web"] is None or load[when]["web"] > 20


@pytest.fixture
def refusing() -> Iterator[int]:
    """A server that answers every request with 503."""

    @HttpRequest.application
    def refuse(request: HttpRequest) -> Response:
        return Response("{}", status="503 busy: click again")

    busy = make_server("127.0.0.1", 0, refuse, threaded=True)
    thread = threading.Thread(target=busy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield busy.server_port
    busy.shutdown()
    thread.join()
    busy.server_close()


def test_refusals_are_counted_by_status_and_have_no_latency(refusing: int) -> None:
    requests, seconds = run_annotators(Client(refusing, SIZE), ["1.jpg"], SIZE, annotators=2, seconds=0.3)

    load = load_figures(requests, seconds)

    assert load["errors"] == {"503": load["requests"]}
    assert (load["answered"], load["first_error"], load["latency_ms"]) == (0, "busy: click again", {})


def test_annotators_go_home_when_the_server_is_gone() -> None:
    requests, _ = run_annotators(Client(9, SIZE), ["1.jpg"], SIZE, annotators=2, seconds=60)

    assert [request.answer.status for request in requests] == [NO_ANSWER, NO_ANSWER]


def test_a_mask_with_another_pixel_is_a_mismatch(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(photograph(*SIZE)))
    empty = Request("1.jpg", (Click(48, 32),), Answer("200", "OK", 1.0, b""), first=True)
    refused = dataclasses.replace(empty, answer=Answer("503", "busy", 1.0, b""))

    found = check_masks(Segmenter(ColorAffinity(grid=GRID)), [empty, refused], tmp_path, SIZE)

    assert (found["checked"], found["mismatches"]) == (1, 1)
    assert 0 < found["largest_difference"] <= 1


def test_no_rle_is_an_empty_mask_of_the_images_size() -> None:
    assert np.array_equal(decode_mask(b"", SIZE), np.zeros((64, 96), bool))


def test_the_server_gets_the_settings_but_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    settings = small_settings(
        layers=(6, 7), working_size=512, label_studio_url="http://labels.test", basic_auth_user="someone"
    )

    variables = environment(settings, tmp_path / "images", tmp_path / "cache")

    expected = {
        "M2N2_BACKBONE": "color",
        "M2N2_GRID": str(GRID),
        "M2N2_LAYERS": "6,7",
        "M2N2_WORKING_SIZE": "512",
        "M2N2_CACHE_DIR": str(tmp_path / "cache"),
        "M2N2_BASIC_AUTH_USER": "",
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "",
    }
    assert expected.items() <= variables.items()


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    settings = small_settings().model_copy(update={"backbone": "vit", "grid": None})

    with (
        pytest.raises(BackboneUnavailable, match=r"ended with status 1: .*--model"),
        server(settings, tmp_path, tmp_path, tmp_path / "log", SIZE),
    ):
        pass
