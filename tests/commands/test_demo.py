"""The demonstration, as somebody sees it who has just cloned the project."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import is_running, wait_until_ready
from repository import ROOT

from m2n2_backend.commands.demo.clicking import MOST_CLICKS, label, server
from m2n2_backend.commands.demo.picture import before_and_after
from m2n2_backend.commands.demo.subjects import SUBJECTS, Labeled
from m2n2_backend.resources import sample_photographs


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "m2n2_backend.commands.demo", *arguments]


@pytest.fixture(scope="module")
def labeled() -> list[Labeled]:
    """What the embedded default answers in a server of its own."""
    with server() as (base, health):
        assert health["backbone"].startswith("color")
        return [label(base, subject) for subject in SUBJECTS]


def test_each_shipped_photograph_has_an_object_that_was_drawn() -> None:
    assert [subject.path for subject in SUBJECTS] == sample_photographs()
    for subject in SUBJECTS:
        with Image.open(subject.path) as image:
            assert subject.drawn.shape == (image.height, image.width)
        assert subject.drawn[subject.first.y, subject.first.x]


def test_every_click_of_the_demonstration_changes_the_mask_and_brings_it_nearer_to_the_drawn_one(
    labeled: list[Labeled],
) -> None:
    for each in labeled:
        assert 2 <= len(each.clicks) == len(each.masks) == len(each.seconds) <= MOST_CLICKS
        assert not any(np.array_equal(before, after) for before, after in pairwise(each.masks))
        assert each.overlaps == sorted(each.overlaps)
        assert each.overlaps[-1] > 0.8, each.subject.name
    assert {click.positive for each in labeled for click in each.clicks} == {True, False}


def test_a_click_that_changes_nothing_ends_the_clicks_and_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = SUBJECTS[0]
    still = np.zeros_like(subject.drawn)
    still[390:400, 430:450] = True
    monkeypatch.setattr("m2n2_backend.commands.demo.clicking.predict", lambda *_: {})
    monkeypatch.setattr("m2n2_backend.commands.demo.clicking.mask_of", lambda _: still)
    assert label("", subject).clicks == [subject.first]


def test_the_picture_has_a_row_for_each_photograph_with_the_first_mask_beside_the_last(
    labeled: list[Labeled],
) -> None:
    picture = np.asarray(before_and_after(labeled)).astype(np.int16)
    left, right = picture[:, :600], picture[:, -600:]
    rows = [each.masks[0].shape[0] * 600 / each.masks[0].shape[1] for each in labeled]
    assert picture.shape[0] == pytest.approx(sum(rows) + 106, abs=3)  # three captions of 30, two gaps of 8
    top = 0
    for each, height in zip(labeled, rows, strict=True):
        part = slice(top + 30, top + 30 + round(height))
        differs = np.abs(left[part] - right[part]).max(axis=2) > 20
        changed = np.asarray(Image.fromarray(each.masks[0] ^ each.masks[-1]).resize((600, round(height))))
        assert differs[changed].mean() > 0.8
        top += 38 + round(height)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--backbone", "nope"], "'nope' is not one of"),
        (["--backbone", "vit"], "backbone vit needs --model"),
        (["--backbone", "vit", "--model", "/no/such"], "/no/such is neither a folder nor a hub id"),
        (["--model", "/no/such"], "has no meaning for backbone color"),
        (["--grid", "3"], "setting grid: Input should be greater than or equal to 8"),
    ],
)
def test_an_option_that_cannot_work_is_told_in_one_sentence_before_a_server_starts(
    options: list[str], cause: str, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("M2N2_")}
    done = subprocess.run(
        command(str(tmp_path / "out"), *options), capture_output=True, text=True, timeout=900, env=environment
    )
    assert done.returncode in (1, 2)
    assert cause in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    done = subprocess.run(command(str(tmp_path / "out")), capture_output=True, text=True, timeout=900)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be the folder of demo.png: File exists" in done.stderr


def test_the_makefile_hands_the_options_of_demo_on() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "m2n2_backend.commands.demo out $(DEMO)" in text


def test_a_demonstration_that_is_ended_by_a_signal_takes_its_server_along(tmp_path: Path) -> None:
    with subprocess.Popen(command(str(tmp_path)), env={**os.environ, "M2N2_BACKBONE": "color"}) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until_ready(process, children.read_text)
        server = int(children.read_text().split()[0])
        process.terminate()

    assert process.returncode == 128 + signal.SIGTERM
    assert not is_running(server)
