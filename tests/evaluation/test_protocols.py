"""Labels and simulated users of both protocols, on masks made for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from scipy.ndimage import distance_transform_edt
from small_data_set import options_for, quietly

from m2n2_backend.errors import DatasetError, SettingsError
from m2n2_backend.evaluation.clicker import ReleasedClicker, simulated_user
from m2n2_backend.evaluation.data import datasets
from m2n2_backend.evaluation.data.datasets import load_samples
from m2n2_backend.evaluation.methods import MethodChoice
from m2n2_backend.evaluation.noc import summary
from m2n2_backend.evaluation.sample import evaluate_sample
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.prompts import Click


def two_regions() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A missing square of 9 pixels that touches a superfluous one, and a larger missing one apart from both."""
    label, mask = np.zeros((24, 40), np.uint8), np.zeros((24, 40), np.bool_)
    label[2:11, 2:11] = 255
    mask[2:11, 11:20] = True
    label[8:19, 26:37] = 255
    return label, mask


def test_missing_and_superfluous_regions_that_touch_are_one_for_the_released_user() -> None:
    label, mask = two_regions()
    mask[8:19, 26:37] = True
    mask[9:12, 30:33] = False  # a small hole is all that is missing on the right

    assert simulated_user("ritm", label).next_click(mask) == Click(15, 6, False)
    # All pixels of the middle line of the region of 9 by 18 are equally deep; the first of them is missing.
    assert simulated_user("released", label).next_click(mask) == Click(6, 6, True)


def test_the_deepest_error_is_clicked_with_the_label_its_pixel_has() -> None:
    label, mask = two_regions()
    assert ReleasedClicker(label).next_click(mask) == Click(31, 13, True)
    assert ReleasedClicker(255 - label).next_click(~mask) == Click(31, 13, False)


def test_the_released_user_remembers_no_click_and_goes_on_where_nothing_is_wrong() -> None:
    label, mask = two_regions()
    user = ReleasedClicker(label)
    assert [user.next_click(mask) for _ in range(3)] == [Click(31, 13, True)] * 3
    assert user.next_click(label == 255) == Click(31, 13, True)


@pytest.mark.parametrize("seed", range(8))
def test_the_released_user_clicks_the_first_maximum_of_the_exact_distance(seed: int) -> None:
    generator = np.random.default_rng(seed)
    label = np.where(generator.random((30, 45)) < 0.7, 255, 0).astype(np.uint8)
    mask = np.asarray(generator.random((30, 45)) < 0.1)
    distance = distance_transform_edt(np.pad((label == 255) != mask, 1))[1:-1, 1:-1]
    row, col = np.unravel_index(int(np.argmax(distance)), distance.shape)

    assert ReleasedClicker(label).next_click(mask) == Click(int(col), int(row), bool(label[row, col]))


class Perfect:
    """A session that knows the answer but forgets it at the third click."""

    grid = None
    ipf_residual = None

    def __init__(self, truth: NDArray[np.bool_]) -> None:
        self.truth = truth

    def mask(self, clicks: list[Click]) -> NDArray[np.bool_]:
        return np.zeros_like(self.truth) if len(clicks) == 3 else self.truth


def test_a_perfect_mask_ends_the_clicks_of_one_protocol_alone() -> None:
    label, _ = two_regions()
    ritm = evaluate_sample(Perfect(label == 255), label)
    released = evaluate_sample(Perfect(label == 255), label, protocol="released")
    assert (len(ritm.clicks), len(released.clicks)) == (1, 20)
    assert released.ious == (1.0, 1.0, 0.0, *[1.0] * 17)


def test_undecided_pixels_are_object_by_the_released_protocol(tmp_path: Path) -> None:
    trimap = np.array([[0, 128, 255], [0, 1, 200]], np.uint8)
    for folder in ("data_GT", "boundary_GT"):
        (tmp_path / folder).mkdir()
    for index in range(50):
        Image.fromarray(trimap).save(tmp_path / "boundary_GT" / f"{index}.png")
        Image.fromarray(trimap).save(tmp_path / "data_GT" / f"{index}.png")

    ritm, released = (load_samples("grabcut", tmp_path, 1, name)[0].label((2, 3)) for name in ("ritm", "released"))

    assert ritm.tolist() == [[0, 128, 255], [0, 0, 255]]
    assert released.tolist() == [[0, 255, 255], [0, 255, 255]]


def test_sbd_has_an_object_per_class_by_the_released_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "SBD_IMAGES", 1)
    (tmp_path / "val.txt").write_text("one\n")
    for folder in ("img", "inst"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "img" / "one.jpg")
    instances = np.array([[1, 2, 0], [1, 3, 0]], np.uint8)
    savemat(tmp_path / "inst" / "one.mat", {"GTinst": {"Segmentation": instances}})
    assert [sample.name for sample in load_samples("sbd", tmp_path)] == ["one_01", "one_02", "one_03"]

    with pytest.raises(DatasetError, match=r"cls/NAME\.mat"):
        load_samples("sbd", tmp_path, protocol="released")
    (tmp_path / "cls").mkdir()
    classes = np.array([[15, 15, 0], [15, 7, 0]], np.uint8)
    savemat(tmp_path / "cls" / "one.mat", {"GTcls": {"Segmentation": classes}})
    samples = load_samples("sbd", tmp_path, protocol="released")
    assert [sample.name for sample in samples] == ["one_07", "one_15"]
    assert samples[1].label((2, 3)).tolist() == [[255, 255, 0], [255, 0, 0]]


def test_the_summary_names_the_share_that_never_gets_there() -> None:
    figures = summary({"a": [0.5, 0.86, 0.91, 0.95] + [0.92] * 16, "b": [0.7] * 19 + [0.9]})
    assert (figures["noc90"], figures["noc95"]) == ((3 + 20) / 2, (4 + 20) / 2)
    assert figures["share_not_reached"] == {"85": 0.0, "90": 0.0, "95": 0.5}
    assert figures["iou_per_click"][0] == pytest.approx(0.6)
    assert len(figures["iou_per_click"]) == 20


def test_preset_and_protocol_are_in_the_json_and_change_the_figures(data: Path) -> None:
    ours = quietly(options_for(data, limit=1))
    chosen = MethodChoice.of(preset="released")
    released = quietly(options_for(data, limit=1, method=chosen, protocol="released", fresh=True))
    assert (ours["preset"], ours["protocol"]) == ("ours", "ritm")
    assert (released["preset"], released["protocol"]) == ("released", "released")
    assert released["fingerprint"]["method"]["rules"] == "released"
    assert released["fingerprint"]["libraries"]["torch"]
    assert released["samples"] != ours["samples"]
    assert 0 <= ours["ipf_residual"] <= 1e-4


def test_what_the_service_serves_is_evaluated_by_default_and_the_papers_method_as_released() -> None:
    assert MethodChoice.of() == MethodChoice.of("refined")
    assert MethodChoice.of(preset="released") == MethodChoice.of("m2n2", preset="released")


def test_the_released_preset_is_of_what_the_released_code_has() -> None:
    assert MethodChoice.of("m2n2-no-flood", preset="released").hyperparameters == Hyperparameters(
        **{**vars(Hyperparameters.released()), "flood_fill": False}
    )
    with pytest.raises(SettingsError, match="released code has no refined"):
        MethodChoice.of("refined", preset="released")
    with pytest.raises(SettingsError, match="unknown protocol sam"):
        quietly(options_for(Path("nowhere"), protocol="sam"))
