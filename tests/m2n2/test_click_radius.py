from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.flood_fill import flood_fill
from m2n2_backend.m2n2.paper.threshold import profile
from m2n2_backend.m2n2.refine.click_radius import click_radius, disc, edit


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_the_radius_is_the_distance_to_the_nearest_pixel_of_the_label_or_the_border(
    seed: int, height: int, width: int, positive: bool
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < 0.3
    row, col = int(rng.integers(height)), int(rng.integers(width))
    padded = np.pad(mask == positive, 1, constant_values=True)  # the border is as good as an edge
    rows, cols = np.nonzero(padded)
    expected = np.sqrt(((rows - 1 - row) ** 2 + (cols - 1 - col) ** 2).min())
    assert click_radius(mask, (row, col), positive) == expected


def test_a_click_that_agrees_with_the_mask_has_no_radius() -> None:
    mask = np.zeros((5, 5), np.bool_)
    assert click_radius(mask, (2, 2), False) == 0.0
    mask[2, 2] = True
    assert click_radius(mask, (2, 2), True) == 0.0


def test_a_disc_holds_the_pixels_within_its_radius_and_always_its_center() -> None:
    assert set(zip(*disc((5, 5), (0, 2), 1.0), strict=True)) == {(0, 1), (0, 2), (0, 3), (1, 2)}
    assert set(zip(*disc((5, 5), (4, 4), 0.0), strict=True)) == {(4, 4)}


def cone(row: int, col: int, shape: tuple[int, int] = (20, 24)) -> NDArray[np.float32]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(y - row, x - col).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 200))
def test_an_edit_changes_no_more_than_allowed_and_only_to_the_clicks_label(
    seed: int, positive: bool, most: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((20, 24)) < 0.5
    row, col = int(rng.integers(20)), int(rng.integers(24))
    mask[row, col] = not positive
    levels = flood_fill(cone(row, col) + rng.random((20, 24), np.float32), row, col).levels
    edited = edit(mask, levels, profile(levels), positive=positive, other=[], most=float(most))
    changed = edited != mask
    assert np.count_nonzero(changed) <= most
    assert (edited[changed] == positive).all()
    assert edited[row, col] == positive


def test_an_edit_leaves_the_other_labels_clicks_out() -> None:
    mask = np.zeros((20, 24), np.bool_)
    levels = flood_fill(cone(10, 10), 10, 10).levels
    far = int(levels[10, 14])
    edited = edit(mask, levels, profile(levels), positive=True, other=[far], most=1e6)
    assert edited[10, 10]
    assert not edited[10, 14]
