"""The disk cache is filled before anybody clicks."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_label_studio import LEGACY, FakeLabelStudio
from faulty_backbone import CRASH, MEMORY, PLAIN, loader, picture
from label_studio_fakes import CONFIG
from rich.console import Console
from small_data_set import one_thread, write_data
from waiting import LAST_RESORT_SECONDS, until

from m2n2_backend.backbones.registry import load_backbone
from m2n2_backend.commands.precompute import precompute
from m2n2_backend.errors import LabelStudioUnavailable, SettingsError
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.outcome import Outcome
from m2n2_backend.labelstudio.precompute import AHEAD, images_of_folder
from m2n2_backend.labelstudio.precompute import precompute as fill
from m2n2_backend.labelstudio.task_images import images_of_task
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.interface import SourceImage, wait_until_loaded
from m2n2_backend.worker.local.pool import ProcessPool
from m2n2_backend.worker.messages import Done, Reply
from m2n2_backend.worker.replica.engine import Engine


def options(tmp_path: Path, **overrides: Any) -> Settings:
    return load_settings(backbone="color", device="cpu", grid=8, cache_dir=tmp_path / "cache", **overrides)


def run(settings: Settings, **source: Any) -> tuple[bool, str]:
    out = io.StringIO()
    given = {"images": None, "project": None, **source}
    with one_thread():
        complete = precompute(settings, **given, console=Console(file=out, width=300))
    return complete, out.getvalue().strip().splitlines()[-1]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data") / "images"


def test_what_was_precomputed_is_clicked_on_without_the_file(images: Path, tmp_path: Path) -> None:
    settings = options(tmp_path)
    assert run(settings, images=images) == (True, "6 encoded, 0 were there, 0 failed")

    engine = Engine(load_backbone("color", grid=8, cache_dir=tmp_path), settings)  # a server's
    for path in images.iterdir():
        key = hashlib.sha256(path.read_bytes()).hexdigest()
        result, timings = engine.segment(SourceImage(key, None), Prompts((Click(9, 9),)))
        assert "encode" not in timings
        assert result.mask.any()


def test_what_systems_put_beside_the_images_is_passed_over(images: Path, tmp_path: Path) -> None:
    photograph = (images / "00.png").read_bytes()
    clutter = ("._00.png", ".hidden.png", "__MACOSX/._00.png", "__MACOSX/00.png", "@eaDir/00.png/THUMB_M.jpg",
               ".ipynb_checkpoints/00-checkpoint.png", ".thumbnails/normal/00.png", ".Trash-1000/files/00.png",
               ".AppleDouble/00.png", "#recycle/00.png", "$RECYCLE.BIN/00.png", "below/@eaDir/00.png")  # fmt: skip
    hidden = tmp_path / ".hidden" / "data"
    hidden.parent.mkdir()
    images.rename(hidden)
    for name in (*clutter, "below/@home/00.png"):
        (hidden / name).parent.mkdir(parents=True, exist_ok=True)
        (hidden / name).write_bytes(photograph)

    found = [Path(name).relative_to(hidden).as_posix() for name in images_of_folder(hidden)]
    assert found == [f"{number:02d}.png" for number in range(6)] + ["below/@home/00.png"]


def test_a_second_run_passes_over_what_is_there_and_does_the_rest(images: Path, tmp_path: Path) -> None:
    settings = options(tmp_path)
    last = sorted(images.iterdir())[-1]
    data = last.read_bytes()
    last.unlink()
    run(settings, images=images)
    last.write_bytes(data)

    assert run(settings, images=images) == (True, "1 encoded, 5 were there, 0 failed")


def test_an_unreadable_image_is_named_and_the_others_are_done(images: Path, tmp_path: Path) -> None:
    (images / "broken.jpg").write_bytes(b"no image")
    out = io.StringIO()

    complete = precompute(options(tmp_path), images=images, project=None, console=Console(file=out, width=300))

    assert not complete
    assert "broken.jpg: not an image" in out.getvalue()
    assert "6 encoded, 0 were there, 1 failed" in out.getvalue()


def test_a_cache_too_small_for_all_says_so_instead_of_evicting_what_it_wrote(images: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="raise M2N2_DISK_CACHE"):
        run(options(tmp_path, disk_cache=40_000), images=images)


def test_a_folder_that_cannot_be_written_ends_the_run_after_one_image(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(SettingsError, match=r"cannot be written \(Not a directory\): 0 images are done"):
        run(options(tmp_path), images=images)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ({}, "either --images or --project"),
        ({"images": Path("/no/such/folder")}, "is not a folder"),
        ({"project": 3}, "set LABEL_STUDIO_URL"),
    ],
)
def test_wrong_sources_are_explained(
    source: dict[str, Any], cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    with pytest.raises(SettingsError, match=cause):
        run(options(tmp_path), **source)


def test_a_projects_images_are_read_through_label_studio_task_by_task(
    studio: FakeLabelStudio, tmp_path: Path
) -> None:
    project = studio.connect("http://backend:9090")
    for name in ("a", "gone", "a"):
        studio.add_task(project, image=f"/data/upload/1/{name}.png")
    settings = options(tmp_path, label_studio_url=studio.url, label_studio_api_key=LEGACY)

    assert run(settings, project=project) == (False, "1 encoded, 1 were there, 1 failed")
    with pytest.raises(LabelStudioUnavailable, match="404"):
        run(settings, project=2)


def test_the_grid_and_the_fingerprint_are_told_before_the_work(images: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    precompute(options(tmp_path), images=images, project=None, console=Console(file=out, width=300))

    first = out.getvalue().splitlines()[0]
    assert "grid 8" in first
    assert first.endswith(f"fingerprint {load_backbone('color', grid=8, cache_dir=tmp_path).fingerprint}")


def test_all_workers_of_a_machine_encode_each_image_once_and_the_next_machine_finds_them(
    images: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    one, other = (options(tmp_path / name, workers=2, store=store) for name in ("one", "other"))

    assert run(one, images=images) == (True, "6 encoded, 0 were there, 0 failed")
    assert run(other, images=images) == (True, "0 encoded, 6 were there, 0 failed")


def test_two_machines_that_fill_one_store_at_the_same_time_lose_no_image(images: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    machines = [options(tmp_path / name, workers=2, store=store) for name in ("one", "other", "later")]
    with ThreadPoolExecutor(2) as runs:
        reports = list(runs.map(lambda settings: run(settings, images=images), machines[:2]))

    assert all(complete and report.endswith(" 0 failed") for complete, report in reports), reports
    assert run(machines[2], images=images) == (True, "0 encoded, 6 were there, 0 failed")


def test_an_image_that_ends_the_worker_or_needs_too_much_memory_fails_alone_and_in_its_place(tmp_path: Path) -> None:
    grounds = [(*PLAIN, 1), CRASH, (*PLAIN, 2), MEMORY, (*PLAIN, 3), (*PLAIN, 4)]
    files = {f"{number}.png": tmp_path / f"{number}.png" for number in range(len(grounds))}
    for path, ground in zip(files.values(), grounds, strict=True):
        path.write_bytes(picture(ground))
    settings = load_settings(device="cpu", cache_dir=tmp_path / "cache")
    pool = ProcessPool(settings, clicks=False, load=loader(tmp_path))
    try:
        wait_until_loaded(pool)
        outcomes = list(fill(settings, files, pool))
    finally:
        pool.close()

    assert [outcome.name for outcome in outcomes] == list(files)
    failed = {outcome.name: outcome.detail for outcome in outcomes if outcome.state == "failed"}
    assert "brought the model's process down" in failed.pop("1.png")
    assert "out of memory" in failed.pop("3.png")
    assert all("brought the model's process down" in detail for detail in failed.values()), "opened beside the first"


def test_no_more_files_are_read_than_the_workers_have_work(images: Path, tmp_path: Path) -> None:
    begun: list[Future[Reply]] = []

    def encode(image: SourceImage) -> Future[Reply]:
        begun.append(Future())
        engine.disk.put(image.key, engine._segmenter.extract(np.zeros((8, 8, 3), np.uint8)))
        if len(begun) == 1:
            begun[0].set_result(Reply(Done(None, 0.0, {"encode": 1.0}), Figures()))
        return begun[-1]

    settings = options(tmp_path)
    engine = Engine(load_backbone("color", grid=8, cache_dir=tmp_path), settings)
    pool: Any = SimpleNamespace(
        encode=encode, fingerprint=engine.backbone.fingerprint, stats=lambda: [SimpleNamespace(figures=Figures())]
    )

    outcomes = fill(settings, images_of_folder(images), pool)

    assert next(outcomes) == Outcome(str(images / "00.png"), "encoded")
    assert len(begun) == 1 + AHEAD


def test_a_run_that_is_interrupted_leaves_whole_files_and_no_process_and_the_next_does_the_rest(
    images: Path, tmp_path: Path
) -> None:
    photograph = (images / "00.png").read_bytes()
    for number in range(400):
        (images / f"more-{number}.png").write_bytes(photograph + bytes([number % 256, number // 256]))
    command = [sys.executable, "-m", "m2n2_backend", "precompute", "--images", str(images)]
    variables = {**os.environ, "M2N2_BACKBONE": "color", "M2N2_GRID": "8", "M2N2_DEVICE": "cpu", "M2N2_THREADS": "1"}
    variables["M2N2_CACHE_DIR"] = str(tmp_path / "cache")
    with subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Whoever runs the tests may ignore it, as a shell's background jobs do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        until(lambda: len(list((tmp_path / "cache").rglob("*.safetensors"))) > 5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        process.communicate(timeout=LAST_RESORT_SECONDS)
    assert process.returncode != 0
    states = ["ps", "-o", "stat=", "-g", str(process.pid)]  # of its session; what has ended may wait to be collected
    until(lambda: not set(subprocess.run(states, capture_output=True, text=True, check=False).stdout) & set("DRST"))

    written = len(list((tmp_path / "cache").rglob("*.safetensors")))
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    settings = options(tmp_path)
    assert run(settings, images=images) == (True, f"{406 - written} encoded, {written} were there, 0 failed")
    engine = Engine(load_backbone("color", grid=8, cache_dir=tmp_path), settings)
    keys = [path.stem for path in (tmp_path / "cache").rglob("*.safetensors")]
    assert all(engine.disk.get(key) is not None for key in keys)


def test_every_image_and_page_of_a_task_is_named_and_first_pages_come_first() -> None:
    controls = CONFIG[CONFIG.index("<BrushLabels") : CONFIG.index("</View>")]
    config = parse_label_config(
        f'<View><Image name="image" valueList="$pages"/>{controls}<Repeater on="$list">'
        f'<Image name="i{{{{idx}}}}" value="$list[{{{{idx}}}}].url"/>'
        + re.sub(r'name="([a-z]+)" toName="image"', r'name="\1_{{idx}}" toName="i{{idx}}"', controls)
        + '</Repeater><Image name="shown" value="$other"/></View>'
    )
    data = {"pages": ["/0.png", 5, "/2.png"], "list": [{"url": "/a.png"}, {"url": "/b.png"}], "other": "/other.png"}
    found = [(name, ref.url) for name, ref in images_of_task({"id": 7, "data": data}, config)]
    assert found == [
        ("task 7, image", "/0.png"),
        ("task 7, i0", "/a.png"),
        ("task 7, i1", "/b.png"),
        ("task 7, image, page 3", "/2.png"),
    ]
