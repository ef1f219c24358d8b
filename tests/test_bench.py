from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from bench_runs import GRID, SIZE, small_options, small_run, small_settings
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.commands.bench import BenchOptions, Figures, parse_sections, parse_size, run_bench
from m2n2_backend.commands.bench.photographs import photograph
from m2n2_backend.commands.bench.plot import plot
from m2n2_backend.errors import SettingsError


@pytest.fixture(scope="module")
def figures() -> Figures:
    return small_run()[0]


def test_all_sections_come_from_one_run_and_fit_into_one_json(figures: Figures) -> None:
    assert list(figures) == ["machine", "size", "repeats", "parts", "switches", "service", "sweep"]
    assert (figures["size"], figures["repeats"]) == (list(SIZE), 3)
    assert figures["machine"]["threads"] >= 1
    assert json.loads(json.dumps(figures)) == figures


def test_the_parts_have_the_documented_keys(figures: Figures) -> None:
    parts = figures["parts"]["color"]

    assert list(figures["parts"]) == ["color"]
    assert set(parts) == {
        *("backbone", "device", "width", "height", "grid", "repeats", "doublings", "encode", "first_click"),
        *("new_click", "repeated_click", "box", "peak_memory", "blocks_deviation", "straightforward", "ratio"),
    }
    names = {"decode", "features", "aggregate", "transition", "upsample_table", "total", "model"}
    assert set(parts["encode"]) == names
    assert set(parts["encode"]["model"]) == {"features"}
    assert set(parts["peak_memory"]) == {"process_mb", "device_mb"}
    assert set(parts["straightforward"]) == {"aggregate", "transition", "click", "click_dense", "candidates"}
    clicks = {"first_click", "new_click", "repeated_click", "click_dense"}
    assert set(parts["ratio"]) == {"aggregate", "transition", *clicks}


def test_the_parts_fit_together(figures: Figures) -> None:
    parts = figures["parts"]["color"]

    assert (parts["width"], parts["height"], parts["grid"]) == (*SIZE, [GRID, GRID])
    assert all(value > 0 for name, value in parts["encode"].items() if name != "model")
    for name in ("first_click", "new_click", "repeated_click", "box"):
        assert 0 < parts[name]["median"] <= parts[name]["p95"]
    plain, ratio = parts["straightforward"], parts["ratio"]
    for name in ("aggregate", "transition"):
        assert ratio[name] == pytest.approx(plain[name] / parts["encode"][name])
    for name in ("first_click", "new_click", "repeated_click"):
        assert ratio[name] == pytest.approx(plain["click"] / parts[name]["median"])
    assert ratio["click_dense"] == pytest.approx(plain["click_dense"] / parts["new_click"]["median"])


def test_every_tier_is_hit_as_its_name_says(figures: Figures) -> None:
    switches = figures["switches"]

    ran = {
        name: {part for part, milliseconds in switches[name]["parts"].items() if milliseconds > 0}
        for name in ("new", "disk", "memory", "device")
    }
    assert ran == {
        "new": {"encode", "prepare", "segment"},
        "disk": {"prepare", "segment"},
        "memory": {"prepare", "segment"},
        "device": {"segment"},
    }
    assert switches["images"] == 3
    assert all(0 < switches[name]["median"] <= switches[name]["p95"] for name in ran)


def test_the_sweep_stops_at_the_largest_grid_that_was_asked_for(figures: Figures) -> None:
    sweep = figures["sweep"]

    assert [entry["grid"] for entry in sweep["grids"]] == [8, 12]
    assert [(entry["width"], entry["height"]) for entry in sweep["photographs"]] == [(64, 48), (128, 96)]
    for entry in (*sweep["grids"], *sweep["photographs"]):
        assert all(entry[name] > 0 for name in ("decode", "encode", "new_click", "state_mb"))


def test_the_tables_show_the_figures(figures: Figures) -> None:
    text = " ".join(small_run()[1].split())

    assert f"{figures['parts']['color']['straightforward']['candidates']} candidate thresholds" in text
    for milliseconds in (figures["parts"]["color"]["new_click"]["median"], figures["switches"]["disk"]["median"]):
        assert (f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}") in text
    assert f"{figures['service']['masks']['checked']}, of which differ: 0" in text
    assert "too little memory" not in text


@pytest.mark.parametrize("sections", [None, ("parts",), ("switches", "service"), ("sweep",)])
def test_whatever_was_measured_can_be_drawn(
    figures: Figures, sections: tuple[str, ...] | None, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "bench.png"

    plot(figures if sections is None else {name: figures[name] for name in sections}, path)

    with Image.open(path) as picture:
        assert (picture.format, min(picture.size) > 200) == ("PNG", True)


def test_the_command_writes_json_and_picture(tmp_path: Path) -> None:
    arguments = ["bench", "--only", "switches", "--backbone", "color", "--grid", "8", "--size", "48x36"]
    json_file, picture = tmp_path / "a" / "bench.json", tmp_path / "b" / "bench.png"

    done = CliRunner().invoke(app, [*arguments, "--repeats", "1", "--json", str(json_file), "--plot", str(picture)])

    assert done.exit_code == 0, done.output
    assert set(json.loads(json_file.read_text())) == {"machine", "size", "repeats", "switches"}
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--only", "parts,wings"], "--only takes some of parts,switches,service,sweep"),
        (["--only", ""], "--only takes"),
        (["--size", "854"], "--size is WIDTHxHEIGHT"),
        (["--size", "8x480"], "--size is WIDTHxHEIGHT"),
    ],
)
def test_options_that_make_no_sense_are_explained(
    arguments: list[str], cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    done = CliRunner().invoke(app, ["bench", "--backbone", "color", *arguments])

    assert done.exit_code == 1
    assert cause in " ".join((done.output + capfd.readouterr().err).split())


def test_sections_come_in_their_own_order_and_sizes_in_pixels() -> None:
    assert parse_sections("sweep, parts") == ("parts", "sweep")
    assert parse_sections(None) == BenchOptions().sections
    assert parse_size("4000x3000") == (4000, 3000)


def test_a_picture_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(SettingsError, match=r"m2n2-backend\[eval\]"):
        plot({}, tmp_path / "a.png")


def test_parts_without_scikit_image_fail_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)

    with pytest.raises(SettingsError, match="scikit-image"):
        run_bench(small_settings(), small_options("parts"), Console(file=io.StringIO()))


@pytest.mark.parametrize("size", [(640, 480), (48, 36), (30, 90)])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_photograph_comes_in_the_wanted_size(size: tuple[int, int], number: int) -> None:
    rgb = photograph(*size, number)

    assert rgb.shape == (size[1], size[0], 3)
    assert rgb.std() > 20


def test_photographs_of_other_numbers_are_others_and_always_the_same() -> None:
    assert len({photograph(48, 36, number).tobytes() for number in range(20)}) == 20
    assert (photograph(48, 36, 7) == photograph(48, 36, 7)).all()
