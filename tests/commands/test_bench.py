"""The benchmark: one small run of everything."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from shared_data import needs_vit_tiny, vit_tiny
from typer.testing import CliRunner

from m2n2_backend.backbones.random_models import random_stable_diffusion
from m2n2_backend.cli import app
from m2n2_backend.commands.bench import run_bench
from m2n2_backend.commands.bench.model import measure_backbone
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.settings import load_settings

SIZE = (96, 64)
GRID = 8
SMALL = ["bench", "--backbone", "color", "--device", "cpu", "--grid", str(GRID), "--size", "96x64"]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """Figures of the model, on photographs and a grid as small as they come."""
    settings = load_settings(backbone="color", grid=GRID, device="cpu", threads=1)
    few: dict[str, Any] = {"repeats": 2, "max_grid": 8, "photographs": ((64, 48),)}
    return run_bench(settings, Console(file=io.StringIO()), size=SIZE, **few)


def test_the_json_says_where_and_what_was_measured(figures: dict[str, Any]) -> None:
    machine = figures["machine"]

    assert list(figures) == ["machine", "size", "model"]
    assert json.loads(json.dumps(figures)) == figures
    assert (figures["size"], machine["device"], machine["grid"]) == (list(SIZE), "cpu", GRID)
    assert machine["backbone"].startswith("color")
    assert machine["torch"]
    assert min(machine["cores"], machine["threads"]) >= 1


def test_a_ratio_is_the_reference_over_ours(figures: dict[str, Any]) -> None:
    color = figures["model"]["backbones"]["color"]
    ours, plain, ratio = color["clicks"], color["reference"], color["ratio"]

    assert set(ratio) == {"aggregate", "transition", "first_click", "new_click", "repeated_click"}
    for name in ("aggregate", "transition"):
        assert ratio[name] == pytest.approx(plain[name] / color["encode"][name])
    for name in ("first_click", "new_click", "repeated_click"):
        assert ratio[name] == pytest.approx(plain["click"] / ours[name]["median"])
    assert set(ours) == {"first_click", "new_click", "repeated_click", "box"}


def test_refined_clicks_stand_beside_the_papers_with_their_parts(figures: dict[str, Any]) -> None:
    refining = figures["model"]["backbones"]["color"]["refining"]

    kinds = {"new_click", "paper_new_click", "repeated_click", "paper_repeated_click"}
    assert set(refining) == kinds | {"parts"}
    assert all(0 < refining[kind]["median"] <= refining[kind]["p95"] for kind in kinds)
    assert set(refining["parts"]) == {"radius", "object", "band", "cut"}
    assert min(refining["parts"]["object"], refining["parts"]["band"]) > 0


def test_every_tier_is_hit_as_its_name_says(figures: dict[str, Any]) -> None:
    ran = {tier: set(entry["parts"]) for tier, entry in figures["model"]["tiers"].items()}

    assert ran == {
        "new": {"load", "encode", "prepare", "segment"},
        "disk": {"load", "prepare", "segment"},
        "memory": {"prepare", "segment"},
        "device": {"segment"},
    }


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--size", "854"], "WIDTHxHEIGHT"),
        (["--size", "8x480"], "WIDTHxHEIGHT"),
        (["--only", "service"], "tests/load/service.py"),
    ],
)
def test_options_that_make_no_sense_are_explained(
    arguments: list[str], cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    done = CliRunner().invoke(app, [*SMALL, *arguments])

    assert done.exit_code == 1
    assert cause in " ".join((done.output + capfd.readouterr().err).split())


def test_stable_diffusion_is_split_into_vae_and_unet() -> None:
    found = measure_backbone(Segmenter(random_stable_diffusion("sd2", grid=8, tiny=True)), (48, 36), 1, dense=False)

    assert list(found["encode"]["model"]) == ["input", "vae", "unet"]


@needs_vit_tiny
def test_a_vit_is_split_into_its_input_and_its_forward_pass() -> None:
    found = measure_backbone(Segmenter(vit_tiny()), (48, 36), 1, dense=False)

    assert list(found["encode"]["model"]) == ["input", "forward"]
