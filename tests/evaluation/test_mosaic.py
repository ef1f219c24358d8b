"""Large photographs made of a data set's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_data_set import SAMPLES, options_for, quietly, write_data

from m2n2_backend.errors import DatasetError
from m2n2_backend.evaluation.data.datasets import load_samples
from m2n2_backend.evaluation.data.mosaic import mosaics
from m2n2_backend.evaluation.workers import group_by_photograph


def test_a_mosaic_shows_many_photographs_and_labels_the_object_of_one(tmp_path: Path) -> None:
    samples = load_samples("folder", write_data(tmp_path / "data"))
    made = mosaics(samples, 3)
    assert [each.name for each in made] == [each.name for each in samples]
    height, width = samples[0].rgb().shape[:2]
    for mosaic, sample in zip(made, samples, strict=True):
        rgb = mosaic.rgb()
        label = mosaic.label(rgb.shape[:2])
        assert rgb.shape == (3 * height, 3 * width, 3)
        own = sample.label(sample.rgb().shape[:2])
        assert (label == 255).mean() == pytest.approx((own == 255).mean() / 9, rel=0.1)
        assert rgb[label == 255].mean() > rgb.mean(), "the object of the scene is light"


def test_equal_samples_make_equal_mosaics_and_a_limit_only_leaves_some_out(tmp_path: Path) -> None:
    samples = load_samples("folder", write_data(tmp_path / "data"))
    once, few = mosaics(samples, 2), mosaics(samples, 2, 3)
    assert few == once[:3] == mosaics(samples, 2)[:3]
    assert all(np.array_equal(first.rgb(), second.rgb()) for first, second in zip(few, once, strict=False))


def test_objects_of_one_photograph_are_in_mosaics_of_their_own(tmp_path: Path) -> None:
    sample = load_samples("folder", write_data(tmp_path / "data"))[0]
    made = mosaics([sample, sample.__class__("other", sample.image, sample.mask, sample.rule)], 2)
    assert [len(group) for group in group_by_photograph(made)] == [1, 1]


@pytest.mark.parametrize("side", [0, 1, 17])
def test_a_mosaic_of_one_photograph_or_of_far_too_many_is_refused(side: int, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="mosaic"):
        mosaics(load_samples("folder", write_data(tmp_path / "data")), side)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_no_mosaic_is_refused(limit: int, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="leaves nothing"):
        mosaics(load_samples("folder", write_data(tmp_path / "data")), 2, limit)


def test_an_evaluation_of_mosaics_says_so_and_repeats(tmp_path: Path) -> None:
    options = options_for(write_data(tmp_path / "data"), mosaic=2, limit=2)
    first, second = quietly(options), quietly(options)
    assert first["dataset"] == "folder, mosaics 2x2"
    assert first["n"] == 2 < SAMPLES
    assert first["samples"] == second["samples"]
