from __future__ import annotations

import io
import json

import pytest
from fake_backbone import FakeBackbone
from rich.console import Console

from m2n2_backend.bench import Figures, photograph, run_bench


@pytest.fixture(scope="module")
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def figures(output: io.StringIO) -> Figures:
    console = Console(file=output, width=160)
    return run_bench(backbone=FakeBackbone(6, 6), console=console, repeats=3, plain_repeats=1, size=(48, 36))


def test_the_figures_have_the_documented_keys(figures: Figures) -> None:
    assert set(figures) == {
        *(
            "backbone",
            "device",
            "threads",
            "width",
            "height",
            "grid",
            "repeats",
            "encode",
            "first_click",
            "new_click",
        ),
        *("repeated_click", "box", "straightforward", "ratio", "peak_memory_mb"),
    }
    assert set(figures["encode"]) == {"features", "aggregate", "transition", "upsample_table", "total"}
    assert set(figures["new_click"]) == {"median", "p95"}
    assert set(figures["straightforward"]) == {"encode", "click", "click_dense", "candidates"}
    assert set(figures["ratio"]) == {"encode", "click", "click_dense"}


def test_the_figures_can_be_written_as_json(figures: Figures) -> None:
    assert json.loads(json.dumps(figures)) == figures


def test_the_figures_fit_together(figures: Figures) -> None:
    assert (figures["width"], figures["height"], figures["grid"]) == (48, 36, [6, 6])
    for name in ("first_click", "new_click", "repeated_click", "box"):
        assert 0 < figures[name]["median"] <= figures[name]["p95"]
    expected = figures["straightforward"]["click"] / figures["new_click"]["median"]
    assert figures["ratio"]["click"] == pytest.approx(expected)


def test_the_table_says_that_kernels_were_compiled_before_and_how_many_thresholds_the_other_tries(
    figures: Figures, output: io.StringIO
) -> None:
    text = output.getvalue()

    assert "Warmed up" in text
    assert f"{figures['straightforward']['candidates']} candidate thresholds" in text
    assert f"{figures['new_click']['median']:.1f}" in text


@pytest.mark.parametrize("size", [(640, 480), (48, 36), (30, 90)])
def test_the_photograph_comes_in_the_wanted_size(size: tuple[int, int]) -> None:
    rgb = photograph(*size)

    assert rgb.shape == (size[1], size[0], 3)
    assert rgb.std() > 20
