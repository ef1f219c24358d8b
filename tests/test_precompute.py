"""The disk cache is filled before anybody clicks."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from fake_label_studio import LEGACY, FakeLabelStudio
from label_studio_fakes import CONFIG
from rich.console import Console
from small_data_set import one_thread, write_data

from m2n2_backend.backbones.registry import load_backbone
from m2n2_backend.commands.precompute import precompute
from m2n2_backend.errors import LabelStudioUnavailable, SettingsError
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.precompute import images_of_folder
from m2n2_backend.labelstudio.task_images import images_of_task
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.engine import Engine
from m2n2_backend.worker.pool import SourceImage


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

    engine = Engine(load_backbone("color", grid=8, cache_dir=tmp_path), settings)
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
    with pytest.raises(SettingsError, match=r"cannot be written \(Not a directory\): 1 images are done"):
        run(options(tmp_path), images=images)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ({}, "either --images or --project"),
        ({"images": Path("/no/such/folder")}, "is no folder"),
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
