"""The whole path with nothing replaced: command line, server process, socket, model, RLE."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.commands.demo.clicking import mask_of, predict, server
from m2n2_backend.prompts import Click
from m2n2_backend.resources import sample_photograph

CLICKS = (Click(228, 276), Click(228, 205), Click(60, 60, positive=False))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "m2n2_backend", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def picture(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def segment(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    clicks = [
        text for click in CLICKS for text in ("--click", f"{click.x},{click.y},{'fg' if click.positive else 'bg'}")
    ]
    return run("segment", str(sample_photograph()), "--backbone", "color", *clicks, "--out", str(out), *more)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("segment")
    done = segment(folder / "mask.png", "--overlay", str(folder / "overlay.png"), "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_predict_answers_with_the_mask_that_segment_writes(written: tuple[Path, dict]) -> None:
    with server() as (base, health):
        prediction = predict(base, sample_photograph(), CLICKS)
    assert np.array_equal(mask_of(prediction).astype(np.uint8) * 255, picture(written[0] / "mask.png"))
    assert prediction["model_version"] == health["model_version"]
    assert prediction["score"] == pytest.approx(written[1]["score"])


def test_segment_writes_an_8_bit_mask_of_the_photographs_size(written: tuple[Path, dict]) -> None:
    mask = picture(written[0] / "mask.png")
    assert (mask.shape, mask.dtype) == ((512, 512), np.uint8)
    assert set(np.unique(mask)) == {0, 255}
    assert picture(written[0] / "overlay.png").shape == (512, 512, 3)


def test_segment_prints_the_documented_figures(written: tuple[Path, dict]) -> None:
    folder, figures = written
    assert (figures["width"], figures["height"], figures["grid"]) == (512, 512, 40)
    assert figures["area"] == int((picture(folder / "mask.png") > 0).sum())
    assert len(figures["thresholds"]) == len(figures["timings_ms"]["clicks"]) == len(CLICKS)


def test_segment_prints_what_it_wrote_and_what_was_read(written: tuple[Path, dict]) -> None:
    folder, figures = written
    files = [str(folder / "mask.png"), str(folder / "overlay.png")]
    assert figures["written"] == files
    assert figures["reads"].startswith("color and texture only")
    done = segment(folder / "mask.png", "--overlay", str(folder / "overlay.png"))
    assert done.stdout == ""
    assert f"written: {', '.join(files)}" in done.stderr
    assert f"{figures['area']:,} of 512x512 pixels" in done.stderr
    assert f"score {figures['score']:.2f}, color and texture only" in done.stderr


def test_segment_takes_scribbles_and_a_polygon(tmp_path: Path) -> None:
    strokes = ["--scribble", "215,60,230,170,230,330,180,400", "--scribble", "120,60,120,120,bg"]
    outline = ["--polygon", "130,5,320,5,420,300,420,511,20,511"]
    written = ["--out", str(tmp_path / "mask.png"), "--overlay", str(tmp_path / "overlay.png")]
    explained = ["--explain", str(tmp_path / "why"), "--json"]
    options = ["--backbone", "color", *strokes, *outline, *written, *explained]
    done = run("segment", str(sample_photograph()), *options)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["thresholds"]) == 2
    mask = picture(tmp_path / "mask.png") > 0
    assert mask[60, 215]
    assert mask[400, 180]
    assert not mask[100, 120]
    assert picture(tmp_path / "overlay.png")[100, 120].argmax() == 2  # the background stroke is red
    assert len(list((tmp_path / "why").glob("click_*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--click", "600,3"], "--click: click (600, 3) is outside the 512x512 image"),
        (["--click", "1,2,xx"], "expected X,Y"),
        (["--box", "1,2,3"], "expected X0,Y0,X1,Y1"),
        (["--box", "9,9,9,30"], "--box: box (9, 9, 9, 30) is empty"),
        (["--click", "5,5", "--box", "9,9,900,30"], "--box: box (9, 9, 900, 30) is outside"),
        (["--scribble", "1,2,3"], "expected X,Y,X,Y"),
        (["--polygon", "1,2,30,40"], "--polygon: a polygon needs three corners"),
        (["--click", "5,5,bg"], "name it with --click X,Y, --scribble, --box or --polygon"),
        ([], "name it with --click X,Y, --scribble, --box or --polygon"),
        (["--click", "5,5"] * 65, "given 65 times in all, and at most 64 are allowed"),
        (["--click", "5,5", "--backbone", "vit"], "needs --model"),
        (["--click", "5,5", "--backbone", "vit", "--model", "/no/such"], "neither a folder nor a hub id"),
        (["--click", "5,5", "--grid", "3"], "greater than or equal to 8"),
    ],
)
def test_segment_explains_bad_input_in_one_line(
    arguments: list[str], cause: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if "--backbone" not in arguments:
        arguments = [*arguments, "--backbone", "color"]
    done = CliRunner().invoke(
        app, ["segment", str(sample_photograph()), *arguments, "--out", str(tmp_path / "m.png")]
    )
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)  # not a traceback
    told = " ".join((done.output + capfd.readouterr().err).split())
    assert cause in told
    assert not any(word in told for word in ("key point", "rectangle", "accept"))  # words of the editor
    assert not (tmp_path / "m.png").exists()


def test_an_image_that_is_missing_or_none_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.png"
    text.write_text("text")
    for path, cause in ((tmp_path / "none.png", "No such file"), (text, "not an image")):
        options = ["--click", "1,1", "--out", str(tmp_path / "m.png"), "--backbone", "color"]
        done = CliRunner().invoke(app, ["segment", str(path), *options])
        assert done.exit_code == 1
        assert cause in " ".join((done.output + capfd.readouterr().err).split())


def test_serve_of_a_backbone_without_weights_ends_at_once_with_the_cure(tmp_path: Path) -> None:
    done = run("serve", "--backbone", "sd2", "--model", str(tmp_path))
    assert done.returncode == 1
    assert "--model" in done.stderr
    assert "Traceback" not in done.stderr
