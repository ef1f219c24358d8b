"""Upsampling as the released code has it, beside a plain version."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2n2_backend.m2n2.released.upsample_solution import solution_bilateral

Floats = NDArray[np.floating]


def plain_upsampling(small: Floats, rgb: NDArray[np.uint8]) -> Floats:
    """Bilinear to full size, then the mean over the disc of three cells' radius, pixel by pixel."""
    (tall, wide), (rows, cols) = rgb.shape[:2], small.shape
    full = np.empty((tall, wide))
    for y in range(tall):
        for x in range(wide):
            down, right = (
                max((at + 0.5) * n / size - 0.5, 0.0) for at, n, size in ((y, rows, tall), (x, cols, wide))
            )
            i, j = min(int(down), rows - 1), min(int(right), cols - 1)
            under, beside = min(i + 1, rows - 1), min(j + 1, cols - 1)
            upper = small[i, j] * (1 - right + j) + small[i, beside] * (right - j)
            lower = small[under, j] * (1 - right + j) + small[under, beside] * (right - j)
            full[y, x] = upper * (1 - down + i) + lower * (down - i)
    colors = rgb / 255.0
    i, j = np.mgrid[:tall, :wide]
    out = np.empty_like(full)
    for y in range(tall):
        for x in range(wide):
            square = ((i - y) * rows / tall) ** 2 + ((j - x) * cols / wide) ** 2
            unlike = np.square((colors - colors[y, x]) / 0.1).sum(axis=2)
            weight = np.where(square <= 9.0 + 1e-12, np.exp(-(square + unlike) / 2), 0.0)
            out[y, x] = (weight * full).sum() / weight.sum()
    return out


@settings(max_examples=10, deadline=None)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 45), st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from([3, 40, 255]),
    st.integers(0, 99),
)
def test_the_solution_is_sampled_at_every_pixel_of_the_disc(
    size: tuple[int, int, int, int], contrast: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    rgb = generator.integers(0, contrast + 1, (*size[:2], 3), dtype=np.uint8)
    small = (100 * generator.random(size[2:])).astype(np.float32)

    operator = solution_bilateral(rgb, *size[2:])

    np.testing.assert_allclose(operator.apply(small), plain_upsampling(small, rgb), rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(operator.weights.sum(axis=1), 1.0, atol=1e-5)


def test_a_photograph_smaller_than_its_grid_is_upsampled_too() -> None:
    generator = np.random.default_rng(1)
    rgb, small = generator.integers(0, 9, (5, 7, 3), dtype=np.uint8), generator.random((12, 12)).astype(np.float32)

    full = solution_bilateral(rgb, 12, 12).apply(small)

    np.testing.assert_allclose(full, plain_upsampling(small, rgb), rtol=2e-5, atol=1e-6)
