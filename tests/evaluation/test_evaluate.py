"""One evaluation from samples to JSON: figures, determinism, processes, and runs that are killed."""

from __future__ import annotations

import functools
import io
import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from processes import is_running
from rich.console import Console
from shared_data import GRABCUT, VIT_TINY, needs_grabcut, needs_vit_tiny
from small_data_set import SAMPLES, options_for, quietly
from waiting import until

from m2n2_backend.backbones.registry import load_backbone
from m2n2_backend.errors import M2N2Error, SettingsError
from m2n2_backend.evaluation import run
from m2n2_backend.evaluation.fingerprint import code_fingerprint
from m2n2_backend.evaluation.methods import MethodChoice
from m2n2_backend.evaluation.run import EvaluationOptions, evaluate
from m2n2_backend.evaluation.workers import in_fresh_process, peak_memory

KEYS = [
    "dataset", "method", "preset", "protocol", "backbone", "grid", "n", "noc85", "noc90", "not_reached_90", "noc95",
    "share_not_reached", "collapses", "iou_at", "iou_per_click", "seconds_per_click", "seconds_per_encode",
    "ipf_residual", "peak_memory", "fingerprint", "samples",
]  # fmt: skip


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if not key.startswith(("seconds", "peak_memory"))}


def journal_of(options: EvaluationOptions) -> Path:
    return options.json.with_name("result.json.partial")


def test_the_json_has_the_agreed_keys_in_order_and_is_what_was_returned(data: Path) -> None:
    options = options_for(data)
    result = quietly(options)
    assert list(result) == KEYS
    assert json.loads(options.json.read_text()) == result
    assert list(result["iou_at"]) == ["1", "3", "5", "10", "20"]
    assert list(result["samples"]) == [f"{index:02d}" for index in range(SAMPLES)]
    assert all(len(ious) == 20 for ious in result["samples"].values())
    assert (result["backbone"], result["grid"], result["n"]) == ("fake", 12, SAMPLES)
    assert result["seconds_per_click"] > 0
    assert result["seconds_per_encode"] > 0
    assert result["peak_memory"]["process"] > 10_000_000


def test_the_figures_follow_from_the_samples_in_the_json(data: Path) -> None:
    result = quietly(options_for(data))
    ious = np.array(list(result["samples"].values()))
    for key, quality in (("noc85", 0.85), ("noc90", 0.90), ("noc95", 0.95)):
        reached = ious >= quality
        counts = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, 20)
        assert result[key] == counts.mean()
    assert result["not_reached_90"] == (ious.max(axis=1) < 0.90).sum()
    assert result["iou_at"]["5"] == pytest.approx(ious[:, 4].mean())


def test_a_photograph_is_encoded_once_and_a_second_run_gives_the_same(data: Path) -> None:
    backbone = FakeBackbone()
    first = quietly(options_for(data), lambda: backbone)
    assert backbone.calls == SAMPLES
    assert without_seconds(quietly(options_for(data))) == without_seconds(first)


def test_a_limit_gives_the_figures_of_the_first_samples(data: Path) -> None:
    everything, two = quietly(options_for(data)), quietly(options_for(data, limit=2))
    assert two["samples"] == {name: everything["samples"][name] for name in ("00", "01")}


def test_a_classic_has_neither_backbone_nor_grid(data: Path) -> None:
    def load() -> FakeBackbone:
        raise AssertionError("a classic loads nothing")

    result = quietly(options_for(data, limit=1, method=MethodChoice.of("geodesic")), load)
    assert (result["backbone"], result["grid"], result["method"]) == (None, None, "geodesic")
    assert result["fingerprint"]["backbone"] is None


def test_the_fingerprint_names_code_backbone_settings_and_data(data: Path) -> None:
    result = quietly(options_for(data, limit=1))
    fingerprint = result["fingerprint"]
    assert set(fingerprint) == {
        "version", "code", "libraries", "backbone", "preset", "protocol", "method", "data"
    }  # fmt: skip
    assert fingerprint["backbone"] == "fake"
    assert fingerprint["method"]["temperature"] == 0.65
    other = quietly(options_for(data, limit=1, method=MethodChoice.of(values=["temperature=0.5"])))
    assert other["fingerprint"]["method"]["temperature"] == 0.5


@pytest.mark.parametrize("file", ["m2n2/segmenter.py", "m2n2/paper/transition.py", "backbones/device/memory.py"])
def test_every_source_of_the_method_is_in_the_fingerprint_of_the_code(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text("x = 1\n")
    before = code_fingerprint(tmp_path)
    path.write_text("x = 2\n")
    assert code_fingerprint(tmp_path) != before


class Interrupted:
    """A backbone that is stopped from outside at its n-th photograph."""

    def __init__(self, at: int) -> None:
        self.inner = FakeBackbone()
        self.at = at

    def __getattr__(self, name: str) -> Any:
        if name == "features" and self.inner.calls >= self.at:
            raise KeyboardInterrupt
        return getattr(self.inner, name)


def test_an_interrupted_run_continues_and_gives_the_same_json(data: Path) -> None:
    whole = quietly(options_for(data))
    options = options_for(data, json=data.parent / "second" / "result.json")
    with pytest.raises(KeyboardInterrupt):
        quietly(options, lambda: Interrupted(at=3))
    assert not options.json.exists()
    backbone = FakeBackbone()
    result = quietly(options, lambda: backbone)
    assert backbone.calls == SAMPLES - 3
    assert without_seconds(result) == without_seconds(whole)
    assert not journal_of(options).exists()


def test_a_line_torn_by_a_kill_is_done_again_and_nothing_is_counted_twice(data: Path) -> None:
    whole = quietly(options_for(data))
    options = options_for(data)
    with pytest.raises(KeyboardInterrupt):
        quietly(options, lambda: Interrupted(at=3))
    content = journal_of(options).read_bytes()
    journal_of(options).write_bytes(content[:-25])
    with pytest.raises(KeyboardInterrupt):
        quietly(options, lambda: Interrupted(at=2))
    lines = [json.loads(line) for line in journal_of(options).read_text().splitlines()]
    assert [line["sample"] for line in lines[1:]] == ["00", "01", "02", "03"]
    assert without_seconds(quietly(options)) == without_seconds(whole)


def stuck_after(count: int, options: EvaluationOptions, stuck: Any) -> None:
    """Body of a process that is killed: says when it waits for ever, ``count`` photographs after its start."""

    class Stuck(FakeBackbone):
        def features(self, rgb: Any) -> Any:
            if self.calls == count:
                stuck.set()
                signal.pause()
            return super().features(rgb)

    quietly(options, Stuck)


def test_a_process_killed_in_the_middle_leaves_what_it_finished(data: Path) -> None:
    options = options_for(data)
    spawn = multiprocessing.get_context("spawn")
    stuck = spawn.Event()
    process = spawn.Process(target=stuck_after, args=(3, options, stuck))
    process.start()
    try:
        assert stuck.wait(120)
    finally:
        process.kill()
        process.join()
    backbone = FakeBackbone()
    result = quietly(options, lambda: backbone)
    assert backbone.calls == SAMPLES - 3
    whole = quietly(options_for(data, json=data.parent / "whole.json"))
    assert without_seconds(result) == without_seconds(whole)


def test_a_journal_of_other_settings_is_refused_with_what_differs(data: Path) -> None:
    options = options_for(data)
    with pytest.raises(KeyboardInterrupt):
        quietly(options, lambda: Interrupted(at=2))
    other = replace(options, method=MethodChoice.of(values=["temperature=0.5"]))
    with pytest.raises(SettingsError, match=r"differs in method\.temperature; .*--fresh"):
        quietly(other)
    assert journal_of(options).exists()
    quietly(replace(other, fresh=True))
    assert not journal_of(options).exists()


def test_two_processes_give_what_one_gives(data: Path) -> None:
    load = functools.partial(FakeBackbone, 12, 12)
    alone, together = quietly(options_for(data), load), quietly(options_for(data, jobs=2, fresh=True), load)
    assert without_seconds(together) == without_seconds(alone)


class Drifting(FakeBackbone):
    """Other weights in every process."""

    fingerprint = f"weights of process {os.getpid()}"


def test_processes_that_are_not_alike_are_refused(data: Path) -> None:
    with pytest.raises(SettingsError, match="weights of process"):
        quietly(options_for(data, jobs=2), Drifting)


def test_an_error_in_a_process_reaches_the_caller(data: Path) -> None:
    path = data / "images" / "04.png"
    path.write_bytes(path.read_bytes()[:200])
    load = functools.partial(FakeBackbone, 12, 12)
    with pytest.raises(M2N2Error, match=r"04\.png cannot be read"):
        quietly(options_for(data, jobs=2), load)


class Killed(FakeBackbone):
    """Ends its process as a machine does that runs out of memory."""

    def features(self, rgb: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_named_with_the_cure(data: Path) -> None:
    with pytest.raises(M2N2Error, match=r"an evaluation process died.* fewer --jobs to continue"):
        quietly(options_for(data, jobs=2), Killed)
    assert not multiprocessing.active_children()


def test_an_interrupted_run_leaves_no_process_and_continues(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = functools.partial(FakeBackbone, 12, 12)
    whole = quietly(options_for(data), load)
    options = options_for(data, jobs=2, json=data.parent / "second" / "result.json")
    with monkeypatch.context() as patched:
        patched.setattr(run, "_running", interrupting(at=3))
        with pytest.raises(KeyboardInterrupt):
            quietly(options, load)
    assert not multiprocessing.active_children()
    assert len(journal_of(options).read_text().splitlines()) == 3
    assert without_seconds(quietly(options, load)) == without_seconds(whole)


def interrupting(at: int) -> Callable[[object], str]:
    """What is called once at the start and once for each photograph: Ctrl+C is pressed in its n-th call."""
    calls = itertools.count(1)

    def running(_: object) -> str:
        if next(calls) == at:
            raise KeyboardInterrupt
        return ""

    return running


def test_a_fresh_process_has_its_own_peak_of_memory_and_its_death_is_an_error() -> None:
    ballast = np.ones(60_000_000)  # half a gigabyte, which a spawned process must not be charged for
    mine, its = peak_memory()["process"], in_fresh_process(peak_memory)["process"]
    assert mine is not None
    assert its is not None
    assert 10_000_000 < its < mine - ballast.nbytes / 2
    with pytest.raises(M2N2Error, match="died"):
        in_fresh_process(os._exit, 1)


class Waiting(FakeBackbone):
    """Says which process it is in, and never comes back."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def features(self, rgb: Any) -> Any:
        (self.folder / str(os.getpid())).touch()
        signal.pause()


def test_the_processes_of_a_killed_run_end(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "processes"
    folder.mkdir()
    options = options_for(data, jobs=2)
    process = multiprocessing.get_context("spawn").Process(
        target=quietly, args=(options, functools.partial(Waiting, folder))
    )
    process.start()
    try:
        until(lambda: len(list(folder.iterdir())) == 2)
    finally:
        process.kill()
        process.join()
    until(lambda: not any(is_running(int(path.name)) for path in folder.iterdir()))


def test_objects_of_one_photograph_share_its_encoding(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [replace(sample, image=data / "images" / "00.png") for sample in run.load_samples("folder", data, 3)]
    samples = [replace(sample, mask=data / "masks" / "00.png") for sample in samples]
    monkeypatch.setattr(run, "load_samples", lambda *_: samples)
    backbone = FakeBackbone()
    result = quietly(options_for(data), lambda: backbone)
    assert backbone.calls == 1
    assert result["n"] == 3


def test_progress_shows_the_running_figures(data: Path) -> None:
    shown = io.StringIO()
    evaluate(options_for(data), FakeBackbone, console=Console(file=shown, force_terminal=True, width=120))
    assert "NoC85" in shown.getvalue()
    assert f"{SAMPLES}/{SAMPLES}" in shown.getvalue()


def test_progress_of_the_page_is_shown_and_the_page_is_named(data: Path) -> None:
    shown = io.StringIO()
    options = options_for(data, limit=2, report=data.parent / "page", method=MethodChoice.of("geodesic"))
    evaluate(options, None, console=Console(file=shown, force_terminal=True, width=120))
    assert "geodesic on folder" in shown.getvalue()
    assert "6/6" in shown.getvalue().partition("pictures of the page")[2]
    assert f"page written: {data.parent / 'page' / 'index.html'}" in shown.getvalue()


def test_no_jobs_and_a_sample_that_is_not_there_are_refused(data: Path) -> None:
    with pytest.raises(SettingsError, match="0 jobs"):
        quietly(options_for(data, jobs=0))
    with pytest.raises(SettingsError, match="no sample xyz"):
        quietly(options_for(data, report=data.parent / "report", explain="xyz"))


@needs_grabcut
@needs_vit_tiny
def test_vit_tiny_needs_few_clicks_on_photographs_of_grabcut(tmp_path: Path, single_thread: None) -> None:
    load = functools.partial(
        load_backbone, "vit", model=str(VIT_TINY), layers=(6,), grid=40, device="cpu", cache_dir=tmp_path
    )
    options = EvaluationOptions("grabcut", GRABCUT, tmp_path / "result.json", limit=2)
    result = quietly(options, load)
    assert result["noc85"] <= 5
    assert result["iou_at"]["20"] > 0.9
