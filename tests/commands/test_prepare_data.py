"""Archives of the benchmarks' structure, from a server on this machine → what ``evaluate`` reads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_archives import SIZE, ArchiveServer, grabcut, image, label, mat, photograph, quiet, tarred, zipped
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.commands.prepare_data import SOURCES, Source, archive, prepare_data
from m2n2_backend.errors import DatasetError
from m2n2_backend.evaluation.data import datasets
from m2n2_backend.evaluation.data.datasets import load_samples


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    server = ArchiveServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_grabcut_becomes_images_and_masks_with_its_unknown_border(server: ArchiveServer, tmp_path: Path) -> None:
    mac = {"__MACOSX/GrabCut/data_GT/._0.jpg": b"x", "GrabCut/data_GT/.DS_Store": b"x", "GrabCut/README": b"x"}

    count = prepare_data("grabcut", tmp_path, quiet(), server.source("grabcut", zipped(grabcut() | mac)))

    samples = load_samples("grabcut", tmp_path)
    assert count == len(samples) == 3
    assert (samples[0].label(SIZE) == label(255, 128)).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "masks"]


@pytest.mark.parametrize("dataset", ["davis", "coco_mval"])
def test_every_index_of_a_palette_but_zero_becomes_255(dataset: str, server: ArchiveServer, tmp_path: Path) -> None:
    mask = image(label(1, 7), "PNG", palette=[0, 0, 0] * 256)  # all of it painted black

    prepare_data(
        dataset, tmp_path, quiet(), server.source(dataset, zipped({"X/img/a.jpg": photograph(), "X/gt/a.png": mask}))
    )

    (sample,) = load_samples(dataset, tmp_path)
    assert (sample.label(SIZE) == label(255, 255)).all()


def test_berkeley_keeps_its_masks_as_they_are(server: ArchiveServer, tmp_path: Path) -> None:
    mask = image(label(255, 128, 40), "PNG")
    files = {f"Berkeley/images/{index}#1.jpg": photograph() for index in range(100)}
    files |= {f"Berkeley/masks/{index}#1.png": mask for index in range(100)}

    assert prepare_data("berkeley", tmp_path, quiet(), server.source("berkeley", zipped(files))) == 100

    assert (tmp_path / "masks/7#1.png").read_bytes() == mask


def test_of_sbd_the_validation_images_stay_with_instances_and_classes(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "SBD_IMAGES", 2)
    top = "benchmark_RELEASE/dataset"
    files: dict[str, bytes] = {"benchmark_RELEASE/benchmark_code_RELEASE/demo/datadir/cls/a.mat": b"another"}
    for name in ("a", "b", "trained"):
        files[f"{top}/cls/{name}.mat"] = mat("GTcls", label(15, 15, 1))
        files[f"{top}/img/{name}.jpg"] = photograph()
        files[f"{top}/inst/{name}.mat"] = mat("GTinst", label(1, 2, 3))
    files |= {f"{top}/val.txt": b"a\nb\n", f"{top}/train.txt": b"trained\n"}

    count = prepare_data("sbd", tmp_path, quiet(), server.source("sbd", tarred(files)))

    assert count == 6
    assert (load_samples("sbd", tmp_path)[1].label(SIZE) == label(0, 255)).all()
    assert (tmp_path / "cls/a.mat").read_bytes() == files[f"{top}/cls/a.mat"]
    assert sorted(path.name for path in (tmp_path / "img").iterdir()) == ["a.jpg", "b.jpg"]


def test_what_is_there_is_not_downloaded_again(server: ArchiveServer, tmp_path: Path) -> None:
    sources = server.source("grabcut", zipped(grabcut()))
    prepare_data("grabcut", tmp_path, quiet(), sources)

    assert prepare_data("grabcut", tmp_path, quiet(), sources) == 3
    assert len(server.ranges) == 1


@pytest.mark.parametrize("honors_ranges", [True, False])
def test_a_lost_connection_is_continued(honors_ranges: bool, server: ArchiveServer, tmp_path: Path) -> None:
    content = zipped(grabcut(20))
    sources, server.cut, server.honors_ranges = server.source("grabcut", content), 1000, honors_ranges
    with pytest.raises(DatasetError, match=r"run this again to continue, or put the file at .*GrabCut\.zip"):
        prepare_data("grabcut", tmp_path, quiet(), sources)
    assert (tmp_path / "downloads/GrabCut.zip.part").read_bytes() == content[:1000]
    assert not (tmp_path / "images").exists()
    server.cut = None

    assert prepare_data("grabcut", tmp_path, quiet(), sources) == 20
    assert server.ranges == [None, "bytes=1000-"]


def test_a_download_that_was_complete_but_for_its_name_is_taken(server: ArchiveServer, tmp_path: Path) -> None:
    content = zipped(grabcut())
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/GrabCut.zip.part").write_bytes(content)

    assert prepare_data("grabcut", tmp_path, quiet(), server.source("grabcut", content)) == 3


def test_an_archive_that_was_brought_by_other_means_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/GrabCut.zip").write_bytes(zipped(grabcut()))

    assert prepare_data("grabcut", tmp_path, quiet(), {"grabcut": nowhere()}) == 3


def nowhere() -> Source:
    return replace(SOURCES["grabcut"], address="http://127.0.0.1:9/GrabCut.zip")


def test_without_a_network_the_address_and_the_way_around_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"127\.0\.0\.1:9/GrabCut\.zip cannot be downloaded .* or put the file at"):
        prepare_data("grabcut", tmp_path, quiet(), {"grabcut": nowhere()})


def test_a_file_that_is_gone_is_told_with_its_status(server: ArchiveServer, tmp_path: Path) -> None:
    sources = server.source("grabcut", b"")
    server.files.clear()

    with pytest.raises(DatasetError, match="404"):
        prepare_data("grabcut", tmp_path, quiet(), sources)


def test_another_checksum_is_refused_and_its_file_removed(server: ArchiveServer, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"MD5 sum .* instead of 00"):
        prepare_data("grabcut", tmp_path, quiet(), server.source("grabcut", zipped(grabcut()), md5="00"))

    assert not list((tmp_path / "downloads").iterdir())


def test_a_file_larger_than_the_data_set_is_refused(server: ArchiveServer, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="more than the 100 expected"):
        prepare_data("grabcut", tmp_path, quiet(), server.source("grabcut", zipped(grabcut()), most=100))


def damaged(content: bytes) -> bytes:
    """The same with one byte in the middle of the first file's data changed."""
    return content[:100] + bytes([content[100] ^ 255]) + content[101:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "damaged"),
        (damaged(zipped(grabcut())), "damaged"),
        (zipped({"readme.txt": b"x"}), "none of the folders data_GT, boundary_GT"),
        (zipped({"GrabCut/data_GT/a.jpg": photograph()}), "no files in masks/"),
        (zipped({"a/boundary_GT/a.bmp": b"no image"}), "cannot be read"),
    ],
)
def test_what_is_not_the_data_set_is_refused_and_nothing_takes_its_place(
    content: bytes, message: str, server: ArchiveServer, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        prepare_data("grabcut", tmp_path, quiet(), server.source("grabcut", content))


def test_no_file_is_written_outside_of_the_root(server: ArchiveServer, tmp_path: Path) -> None:
    link = tarfile.TarInfo("data_GT/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as opened:
        opened.addfile(link)
        for path, content in {
            "../../data_GT/a.jpg": photograph(),
            "/boundary_GT/a.bmp": image(label(255), "BMP"),
        }.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
        for name in ("data_GT/..", "data_GT/a\\..\\b.jpg", "data_GT/a\n.jpg"):
            opened.addfile(tarfile.TarInfo(name))

    prepare_data("grabcut", tmp_path / "root", quiet(), server.source("grabcut", out.getvalue()))

    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()} == {
        "root/images/a.jpg",
        "root/masks/a.png",
    }


@pytest.mark.parametrize("limit", ["MOST_FILE", "MOST_FILES"])
def test_an_archive_that_unpacks_to_too_much_is_refused(
    limit: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, limit, 1)

    with pytest.raises(DatasetError, match=r"more than 1 .*it is not the data set"):
        prepare_data("grabcut", tmp_path, quiet(), server.source("grabcut", zipped(grabcut())))


def test_other_files_at_the_place_are_left_alone(server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/own.jpg").write_bytes(b"mine")

    with pytest.raises(DatasetError, match=r"no files in masks/; remove .*images and run this again"):
        prepare_data("grabcut", tmp_path, quiet(), server.source("grabcut", zipped(grabcut())))

    assert (tmp_path / "images/own.jpg").read_bytes() == b"mine"
    assert server.ranges == []


def test_the_command_line_prepares_and_names_the_known_data_sets(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = server.source("grabcut", zipped(grabcut()))
    monkeypatch.setitem(SOURCES, "grabcut", sources["grabcut"])
    run = CliRunner().invoke

    assert run(app, ["prepare-data", "--dataset", "grabcut", "--root", str(tmp_path)]).exit_code == 0
    assert len(load_samples("grabcut", tmp_path)) == 3
    assert run(app, ["prepare-data", "--dataset", "imagenet", "--root", str(tmp_path)]).exit_code == 1


def test_every_archive_has_an_address_over_tls() -> None:
    assert set(SOURCES) == set(datasets.DATASETS) - {"folder"}
    assert all(source.address.startswith("https://") for source in SOURCES.values())
