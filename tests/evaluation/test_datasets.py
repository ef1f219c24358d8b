"""Folders of the benchmarks → samples, and what is said when they are not as expected."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from shared_data import GRABCUT, SHARED, needs_grabcut

from m2n2_backend.errors import DatasetError
from m2n2_backend.evaluation.data import datasets
from m2n2_backend.evaluation.data.datasets import LAYOUTS, data_fingerprint, load_samples

SIZE = (6, 8)


def trimap() -> NDArray[np.uint8]:
    label = np.zeros(SIZE, np.uint8)
    label[1:4, 1:5] = 255
    label[4, 1:5] = 128
    return label


def save(path: Path, pixels: NDArray[np.uint8], palette: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def photograph() -> NDArray[np.uint8]:
    return np.full((*SIZE, 3), 90, np.uint8)


def fill(root: Path, layout: str, count: int, mask: NDArray[np.uint8] | None = None, suffix: str = ".png") -> None:
    for index in range(count):
        save(root / LAYOUTS[layout].images / f"{index:03d}.jpg", photograph())
        save(root / LAYOUTS[layout].masks / f"{index:03d}{suffix}", trimap() if mask is None else mask)


def test_a_folder_of_images_and_masks_is_sorted_by_stem(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 3)
    samples = load_samples("folder", tmp_path)
    assert [sample.name for sample in samples] == ["000", "001", "002"]
    assert samples[0].rgb().shape == (*SIZE, 3)
    assert (samples[0].label(SIZE) == trimap()).all()


def test_a_limit_takes_the_first_samples(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 3)
    assert [sample.name for sample in load_samples("folder", tmp_path, 2)] == ["000", "001"]
    with pytest.raises(DatasetError, match="limit of 0"):
        load_samples("folder", tmp_path, 0)


def test_grabcut_has_the_layout_of_ritm_with_bitmaps_as_masks(tmp_path: Path) -> None:
    mask = trimap()
    mask[1, 1] = 250  # RITM takes everything above 128 as object, and what lies between as background
    mask[0, 0] = 64
    fill(tmp_path, "grabcut", 50, mask, ".bmp")
    samples = load_samples("grabcut", tmp_path)
    assert len(samples) == 50
    assert (samples[0].label(SIZE) == trimap()).all()


def test_of_a_davis_palette_mask_every_index_but_zero_is_object(tmp_path: Path) -> None:
    indices = np.zeros(SIZE, np.uint8)
    indices[0, 0], indices[2, 3], indices[4, 4] = 1, 2, 3
    black_and_red = bytes((0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 128, 0))  # index 2 is painted black
    fill(tmp_path, "davis", 345)
    for path in (tmp_path / "gt").iterdir():
        save(path, indices, black_and_red)
    samples = load_samples("davis", tmp_path)
    assert len(samples) == 345
    assert (samples[0].label(SIZE) == np.where(indices > 0, 255, 0)).all()


def test_a_davis_mask_saved_as_rgb_is_read_as_well(tmp_path: Path) -> None:
    save(tmp_path / "mask.png", np.where(trimap()[..., None] == 255, np.uint8([0, 128, 0]), np.uint8(0)))
    sample = datasets.Sample("mask", tmp_path / "mask.png", tmp_path / "mask.png", "nonzero")
    assert (sample.label(SIZE) == np.where(trimap() == 255, 255, 0)).all()


def test_every_instance_of_sbd_is_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "SBD_IMAGES", 2)
    for name, count in (("2008_000002", 2), ("2008_000009", 1)):
        save(tmp_path / "img" / f"{name}.jpg", photograph())
        segmentation = np.zeros(SIZE, np.uint8)
        segmentation[0, :count] = np.arange(1, count + 1)
        (tmp_path / "inst").mkdir(exist_ok=True)
        content = {"Segmentation": segmentation, "Boundaries": 0, "Categories": np.arange(count)}
        savemat(tmp_path / "inst" / f"{name}.mat", {"GTinst": content})
    (tmp_path / "val.txt").write_text("2008_000009\n2008_000002\n")
    samples = load_samples("sbd", tmp_path)
    assert [sample.name for sample in samples] == ["2008_000002_01", "2008_000002_02", "2008_000009_01"]
    assert np.argwhere(samples[1].label(SIZE) == 255).tolist() == [[0, 1]]


@pytest.mark.parametrize("dataset", [*LAYOUTS, "sbd"])
def test_a_missing_data_set_is_named_with_what_is_expected_where(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_samples(dataset, tmp_path / "nowhere")
    message = str(caught.value)
    assert dataset in message
    assert str(tmp_path / "nowhere") in message
    for part in (
        (LAYOUTS[dataset].images, LAYOUTS[dataset].masks) if dataset in LAYOUTS else ("img/", "inst/", "val.txt")
    ):
        assert part in message


def test_a_half_downloaded_data_set_is_refused_with_its_counts(tmp_path: Path) -> None:
    fill(tmp_path, "davis", 120)
    with pytest.raises(DatasetError, match=r"incomplete.*345 of each.*there are 120"):
        load_samples("davis", tmp_path)


def test_photographs_without_masks_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 5)
    (tmp_path / "masks" / "001.png").unlink()
    (tmp_path / "masks" / "003.png").write_bytes(b"")  # a download that has just begun
    with pytest.raises(DatasetError, match="2 are missing or empty in masks/: 001, 003"):
        load_samples("folder", tmp_path)


def test_masks_without_photographs_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 2)
    (tmp_path / "images" / "000.jpg").unlink()
    with pytest.raises(DatasetError, match="1 are missing or empty in images/: 000"):
        load_samples("folder", tmp_path)


def test_a_cut_off_photograph_is_named_when_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 1)
    path = tmp_path / "images" / "000.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"000\.jpg cannot be read.*incomplete"):
        load_samples("folder", tmp_path)[0].rgb()


def test_a_cut_off_mask_is_named_when_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 1)
    path = tmp_path / "masks" / "000.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DatasetError, match=r"000\.png cannot be read.*incomplete"):
        load_samples("folder", tmp_path)[0].label(SIZE)


def test_sbd_with_a_cut_off_instance_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "SBD_IMAGES", 1)
    save(tmp_path / "img" / "a.jpg", photograph())
    (tmp_path / "inst").mkdir()
    (tmp_path / "inst" / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    (tmp_path / "val.txt").write_text("a\n")
    with pytest.raises(DatasetError, match=r"a\.mat is not an SBD instance file"):
        load_samples("sbd", tmp_path)


def test_other_values_in_a_folders_masks_are_refused_with_the_rule(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 1, (trimap() > 0).astype(np.uint8))
    with pytest.raises(DatasetError, match="values 0, 1 …; 255 is object, 0 background, 128 ignored"):
        load_samples("folder", tmp_path)[0].label(SIZE)


def test_a_mask_without_object_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 1, np.zeros(SIZE, np.uint8))
    with pytest.raises(DatasetError, match="holds no object"):
        load_samples("folder", tmp_path)[0].label(SIZE)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 1)
    with pytest.raises(DatasetError, match="8x6 pixels, its photograph 9x6"):
        load_samples("folder", tmp_path)[0].label((6, 9))


def test_other_files_in_the_folders_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "folder", 1)
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "masks" / "._000.png").write_bytes(b"x")
    assert len(load_samples("folder", tmp_path)) == 1


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="grabcut, berkeley, davis, coco_mval, folder, sbd"):
        load_samples("coco", tmp_path)


def test_the_fingerprint_changes_with_names_and_sizes_and_not_with_the_place(tmp_path: Path) -> None:
    fill(tmp_path / "a", "folder", 2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = data_fingerprint(load_samples("folder", tmp_path / "a"))
    assert data_fingerprint(load_samples("folder", tmp_path / "b")) == before
    with (tmp_path / "b" / "masks" / "001.png").open("ab") as file:
        file.write(b"\0")
    assert data_fingerprint(load_samples("folder", tmp_path / "b")) != before
    assert data_fingerprint(load_samples("folder", tmp_path / "a", 1)) != before


@needs_grabcut
def test_a_converted_copy_is_read_under_its_own_name() -> None:
    samples = load_samples("grabcut", GRABCUT)
    assert len(samples) == 50
    values = {int(value) for sample in samples[:10] for value in np.unique(sample.label(sample.rgb().shape[:2]))}
    assert values == {0, 128, 255}


@pytest.mark.skipif(not (SHARED / "data" / "davis345_every5").is_dir(), reason="needs ../shared/data/davis345_every5")
def test_a_subset_of_davis_in_folder_layout_is_read_as_davis() -> None:
    assert len(load_samples("davis", SHARED / "data" / "davis345_every5")) == 69
