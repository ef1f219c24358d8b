"""Brush RLE, bit for bit as Label Studio's SDK writes it."""

from __future__ import annotations

import numpy as np
import pytest
from label_studio_sdk.converter.brush import mask2rle

from m2n2_backend.worker.replica.rle import brush_rle


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5), (40, 61), (128, 128), (301, 257)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999, 1.0])
def test_it_equals_the_sdks(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share

    assert list(brush_rle(mask)) == mask2rle(mask.astype(np.uint8) * 255)


@pytest.mark.parametrize("pixels", [2, 4, 64, 16383, 16384, 16385, 32768, 40000])
def test_runs_around_the_lengths_that_need_more_bits_equal_the_sdks(pixels: int) -> None:
    mask = np.zeros((1, 50_000), bool)
    mask[0, 7 : 7 + pixels] = True

    assert list(brush_rle(mask)) == mask2rle(mask.astype(np.uint8) * 255)


@pytest.mark.parametrize("rows", [slice(0, 3), slice(20, 21), slice(37, 40), slice(0, 40)])
@pytest.mark.parametrize("cols", [slice(0, 61), slice(10, 20), slice(1, 60), slice(60, 61)])
def test_masks_of_a_few_rows_equal_the_sdks(rows: slice, cols: slice) -> None:
    mask = np.zeros((40, 61), bool)
    mask[rows, cols] = True

    assert list(brush_rle(mask)) == mask2rle(mask.astype(np.uint8) * 255)
