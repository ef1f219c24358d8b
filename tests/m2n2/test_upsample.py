from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import grabcut_photograph, needs_grabcut

from m2n2_backend.evaluation.reference import joint_bilateral as plain_joint_bilateral
from m2n2_backend.m2n2.paper.upsample import SIGMA_RANGE, SIGMA_SPATIAL, cell_of_pixels, joint_bilateral


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def small_map(height: int, width: int, seed: int = 0) -> np.ndarray:
    return (100 * np.random.default_rng(seed).random((height, width))).astype(np.float32)


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))


def test_the_gaussians_are_those_of_the_paper() -> None:
    assert (SIGMA_SPATIAL, SIGMA_RANGE) == (1.0, 0.1)


@settings(max_examples=25, deadline=None)
@given(sizes, st.sampled_from([0, 1, 3, 4]), st.integers(1, 2), st.integers(0, 99))
def test_upsampling_equals_the_weighted_mean_written_out(
    size: tuple[int, int, int, int], samples: int, radius: int, seed: int
) -> None:
    height, width, rows, cols = size
    rgb, small = noise(height, width, seed), small_map(rows, cols, seed)

    ours = joint_bilateral(rgb, rows, cols, samples=samples, radius=radius).apply(small)

    plain = plain_joint_bilateral(small.astype(np.float64), rgb, samples=samples, radius=radius)
    assert ours.shape == (height, width)
    np.testing.assert_allclose(ours, plain, atol=1e-3 * small.max())


def test_one_pixel_equals_a_double_loop_over_its_window() -> None:
    rgb, small = noise(20, 30), small_map(4, 6)
    y, x, (tall, wide) = 9, 3, (4 / 20, 6 / 30)
    total = weights = 0.0
    for i in range(20):
        for j in range(30):
            down, across = (i - y) * tall, (j - x) * wide
            if max(abs(down), abs(across)) <= 2:
                color = ((rgb[i, j] / 255.0 - rgb[y, x] / 255.0) ** 2).sum()
                weight = np.exp(-(down**2 + across**2) / 2) * np.exp(-color / (2 * 0.1**2))
                total += weight * small[i // 5, j // 5]
                weights += weight

    ours = joint_bilateral(rgb, 4, 6, samples=0).apply(small)

    assert ours[y, x] == pytest.approx(total / weights, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from([0, 4]), st.integers(0, 99))
def test_weights_sum_to_full_scale_and_values_stay_within_those_of_the_cells(
    size: tuple[int, int, int, int], samples: int, seed: int
) -> None:
    height, width, rows, cols = size
    operator = joint_bilateral(noise(height, width, seed), rows, cols, samples=samples)
    small = small_map(rows, cols, seed)

    full = operator.apply(small)

    assert (operator.weights.astype(np.int64).sum(axis=1) == 65535).all()
    assert full.min() >= small.min() * (1 - 1e-5)
    assert full.max() <= small.max() * (1 + 1e-5)


def test_a_constant_map_stays_constant() -> None:
    full = joint_bilateral(noise(33, 47), 8, 8).apply(np.full((8, 8), 7.0, np.float32))

    np.testing.assert_allclose(full, 7.0, rtol=1e-5)


@pytest.mark.parametrize("edge", [15, 17])  # on the border of a cell, and within one
def test_values_change_where_the_photograph_has_an_edge(edge: int) -> None:
    rgb = np.zeros((40, 40, 3), np.uint8)
    rgb[:, edge:] = 255
    small = np.where(np.arange(8)[None, :] < 3, 0.0, 100.0).repeat(8, axis=0).astype(np.float32)

    full = joint_bilateral(rgb, 8, 8).apply(small)

    assert (np.diff(full, axis=1).argmax(axis=1) == edge - 1).all()
    if edge == 15:
        assert full[:, :15].max() < 0.5
        assert full[:, 15:].min() > 99.5


def test_a_flat_photograph_gives_a_smooth_ramp() -> None:
    ramp = np.arange(8, dtype=np.float32)[None, :].repeat(8, axis=0)

    full = joint_bilateral(np.full((64, 64, 3), 128, np.uint8), 8, 8, samples=0).apply(ramp)

    assert (np.diff(full, axis=1) > -1e-4).all()
    assert np.diff(full, axis=1).max() < 0.5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (1, 50), (50, 1), (7, 40)])
def test_photographs_smaller_than_the_grid_take_the_cell_under_each_pixel_most(height: int, width: int) -> None:
    small = small_map(40, 40)
    rgb = noise(height, width)

    full = joint_bilateral(rgb, 40, 40).apply(small)

    plain = plain_joint_bilateral(small.astype(np.float64), rgb, samples=4)
    np.testing.assert_allclose(full, plain, atol=1e-3 * small.max())
    if (height, width) == (1, 1):
        assert full[0, 0] == pytest.approx(small[20, 20], rel=1e-4)


@given(st.integers(1, 300), st.integers(1, 60))
def test_each_pixel_lies_in_the_cell_under_its_center(pixels: int, cells: int) -> None:
    index = cell_of_pixels(pixels, cells)

    center = (np.arange(pixels) + 0.5) * cells / pixels
    assert ((index <= center + 1e-9) & (center - 1e-9 <= index + 1)).all()
    assert (np.diff(index) >= 0).all()
    assert index[0] >= 0
    assert index[-1] < cells


def test_a_table_knows_its_bytes() -> None:
    operator = joint_bilateral(noise(20, 30), 5, 5, radius=2)

    assert operator.nbytes == 20 * 25 * 30 * 2


@needs_grabcut
@pytest.mark.parametrize("samples", [0, 4])
def test_upsampling_on_a_photograph_equals_the_weighted_mean_written_out(samples: int) -> None:
    rgb = grabcut_photograph("124080")[60:140, 100:220]
    small = small_map(8, 10)

    ours = joint_bilateral(rgb, 8, 10, samples=samples).apply(small)

    plain = plain_joint_bilateral(small.astype(np.float64), rgb, samples=samples)
    assert np.abs(ours - plain).max() <= 1e-3 * small.max()


@needs_grabcut
def test_four_samples_per_side_of_a_cell_come_close_to_reading_every_pixel() -> None:
    rgb = grabcut_photograph("124080")
    smooth = np.hypot(*np.mgrid[-20:20, -20:20]).astype(np.float32)

    sparse = joint_bilateral(rgb, 40, 40, samples=4).apply(smooth)
    dense = joint_bilateral(rgb, 40, 40, samples=0).apply(smooth)

    assert np.abs(sparse - dense).mean() < 0.005 * smooth.max()
