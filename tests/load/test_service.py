"""The load generator: one small run with faults, wrong masks that it reports, latencies from the intended arrival."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import service
from arrivals import Answer, Arrival, Load, arrivals_of, drive, figures_of, warm_latencies
from label_studio_sdk.converter.brush import encode_rle
from masks import check_masks, faults_of
from served import environment, server

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.commands.bench.photographs import jpeg, photograph
from m2n2_backend.errors import StudioError
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click
from m2n2_backend.settings import load_settings

SIZE = (96, 64)
GRID = 8


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of the script itself, with a worker that is killed and a cache that is removed under way."""
    path = tmp_path_factory.mktemp("bench") / "new" / "bench.json"
    small = ["--backbone", "color", "--device", "cpu", "--grid", str(GRID), "--size", "96x64", "--json", str(path)]
    load = ["--seconds", "1", "--rate", "8", "--images", "3", "--kill-every", "0.6", "--abuse-disk", "removed"]
    variables = {**os.environ, "M2N2_THREADS": "1"}
    done = subprocess.run([sys.executable, service.__file__, *small, *load], env=variables, check=False)
    assert done.returncode == 0
    found = json.loads(path.read_text())
    assert list(found) == ["machine", "size", "service"]
    return dict(found["service"])


def test_a_server_whose_worker_was_killed_and_whose_cache_was_removed_gave_no_wrong_mask(
    figures: dict[str, Any],
) -> None:
    load = figures["load"]

    assert load["kills"] >= 1
    assert load["requests"] == load["answered"] + sum(load["refused"].values()) > 0
    single = 5 + 2 * 10 + 5  # first clicks, pairs of a new and a repeated one, first clicks from disk
    assert figures["masks"] == {"checked": single + load["answered"], "mismatches": 0, "largest_difference": 0}
    assert (figures["damaged_files"], figures["faults"]) == (0, [])
    assert set(figures["one_at_a_time"]) == {"first_click", "new_click", "repeated_request", "first_click_from_disk"}


def test_a_mask_with_one_other_pixel_and_an_end_without_a_reason_are_faults(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(photograph(SIZE)))
    segmenter, clicks = Segmenter(ColorAffinity(grid=GRID)), (Click(48, 32),)
    mask = segmenter.segment(
        segmenter.encode(decode_image((tmp_path / "1.jpg").read_bytes(), max_pixels=10**8)), clicks
    ).mask
    right = Answer(Arrival(0.0, "1.jpg", clicks), 200, "OK", rle_of(mask), 1.0, 1.0)
    mask[0, 0] ^= True
    wrong = dataclasses.replace(right, rle=rle_of(mask))
    busy = dataclasses.replace(right, status=503, reason="busy: click again", rle=b"")
    broken = dataclasses.replace(right, status=0, reason="ConnectionResetError", rle=b"")

    found = check_masks(segmenter, [right, wrong, busy], tmp_path, SIZE)

    assert found == {"checked": 2, "mismatches": 1, "largest_difference": 1 / mask.size}
    assert faults_of([right, wrong, busy], found, 0) == ["1 masks of 2 differ from those computed alone"]
    fine = {"checked": 1, "mismatches": 0}
    assert faults_of([right, busy], fine, 0) == []
    assert faults_of([broken], fine, 2) == [
        "1 requests ended with 0 'ConnectionResetError'",
        "2 files in the cache are damaged",
    ]


def test_a_latency_counts_from_the_intended_arrival() -> None:
    time = [0.0]

    def answered_after_a_second(arrival: Arrival) -> tuple[int, str, bytes]:
        time[0] += 1.0
        return 200, "OK", b""

    # All three are due at once, and the only sender takes a second for each: the last waits two seconds for its turn.
    arrivals = [Arrival(0.0, "1.jpg", ())] * 3
    answers = drive(arrivals, answered_after_a_second, senders=1, now=lambda: time[0], sleep=lambda _: None)

    assert [each.latency for each in answers] == [1000, 2000, 3000]
    assert figures_of(answers)["latency_ms"]["p100"] == 3000


def test_arrivals_are_as_many_as_the_rate_says_and_the_first_image_is_the_most_popular() -> None:
    names = [f"{number}.jpg" for number in range(10)]

    arrivals = arrivals_of(Load(rate=50.0, seconds=40.0), names, SIZE)

    at = [each.at for each in arrivals]
    assert at == sorted(at)
    assert len(at) == pytest.approx(2000, rel=0.1)
    assert np.std(np.diff(at)) == pytest.approx(1 / 50, rel=0.15)  # of an exponential: its mean
    asked = [sum(each.image == name for each in arrivals) for name in names]
    assert asked[0] / asked[1] == pytest.approx(2, rel=0.2)
    assert asked[0] / asked[9] == pytest.approx(10, rel=0.5)


def test_the_server_gets_the_settings_but_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    settings = load_settings(
        backbone="color", grid=GRID, layers=(6, 7), label_studio_url="http://labels.test", basic_auth_user="someone"
    )

    variables = environment(settings, tmp_path / "images", tmp_path / "cache")

    expected = {
        "M2N2_BACKBONE": "color",
        "M2N2_GRID": str(GRID),
        "M2N2_LAYERS": "6,7",
        "M2N2_CACHE_DIR": str(tmp_path / "cache"),
        "M2N2_BASIC_AUTH_USER": "",
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "",
    }
    assert expected.items() <= variables.items()


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    settings = load_settings(backbone="vit", device="cpu")

    with (
        pytest.raises(StudioError, match=r"ended with status 1(?s:.*)--model"),
        server(settings, tmp_path, tmp_path, tmp_path / "log"),
    ):
        pass


def rle_of(mask: np.ndarray) -> bytes:
    """Brush RLE as Label Studio's own converter writes it: the mask in all four channels."""
    return bytes(encode_rle(np.repeat(mask.ravel(), 4).astype(np.uint8) * 255))


def test_a_warm_click_is_one_whose_image_was_answered_since_the_latest_kill() -> None:
    def answer(at: float, image: str, latency: float) -> Answer:
        return Answer(Arrival(at, image, ()), 200, "OK", b"", 1000 * latency, 1000 * latency)

    answers = [
        answer(0, "a", 2),  # cold
        answer(1, "a", 1.5),  # was due before the first answer was there
        answer(3, "a", 0.01),
        answer(4, "b", 0.02),  # cold
        answer(6, "a", 0.5),  # a worker was killed since
        answer(7, "a", 0.03),
        answer(9.9, "a", 0.4),  # killed meanwhile
    ]

    assert warm_latencies(answers, [5.0, 10.0]) == pytest.approx([10, 30])
