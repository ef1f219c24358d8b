from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import label

from m2n2_backend.m2n2.postprocess import distance_of as smooth_distance_of
from m2n2_backend.m2n2.postprocess import object_at, smooth_specks, stability, without_specks


def distance_of(picture: str) -> NDArray[np.float32]:
    """# is object."""
    rows = picture.split()
    return np.array([[0.5 if cell == "#" else 3.0 for cell in row] for row in rows], np.float32)


def picture_of(distance: NDArray[np.float32]) -> str:
    return " ".join("".join("#" if value <= 1 else "." for value in row) for row in distance)


SPECKLED = ".......#. .####..#. .####.... .#.##.... .####.#.. ......... #........"


def test_islands_and_pinholes_smaller_than_the_share_go() -> None:
    distance = distance_of(SPECKLED)

    smooth_specks(distance, 3 / distance.size, points=[])

    assert picture_of(distance) == "......... .####.... .####.... .####.... .####.... ......... ........."


def test_a_share_of_0_changes_nothing() -> None:
    distance = distance_of(SPECKLED)

    smooth_specks(distance, 0.0, points=[])

    assert (distance == distance_of(SPECKLED)).all()


def test_an_island_and_a_pinhole_that_hold_a_prompt_stay() -> None:
    distance = distance_of(SPECKLED)

    smooth_specks(distance, 3 / distance.size, points=[(6, 0), (3, 2)])

    assert picture_of(distance) == "......... .####.... .####.... .#.##.... .####.... ......... #........"


def test_the_largest_island_stays_however_small() -> None:
    distance = distance_of("#.... ..... ..##.")

    smooth_specks(distance, 0.5, points=[])

    assert picture_of(distance) == "..... ..... ..##."


def test_islands_are_not_joined_by_a_corner_but_holes_are() -> None:
    islands = distance_of("##... ##... ..#.. ..... .....")
    holes = distance_of("##### #.### ##.## ##### #####")

    smooth_specks(islands, 2 / 25, points=[])
    smooth_specks(holes, 2 / 25, points=[])

    assert picture_of(islands) == "##... ##... ..... ..... ....."
    assert picture_of(holes) == "##### #.### ##.## ##### #####"


def smoothed_by_definition(mask: NDArray[np.bool_], share: float, points: list[tuple[int, int]]) -> NDArray[np.bool_]:
    mask = mask.copy()
    for value, structure in ((True, None), (False, np.ones((3, 3)))):
        labels, count = label(mask == value, structure)
        sizes = [int((labels == part).sum()) for part in range(1, count + 1)]
        for part, size in enumerate(sizes, start=1):
            largest = value and sizes.index(max(sizes)) == part - 1
            if size < share * mask.size and not largest and not any(labels[point] == part for point in points):
                mask[labels == part] = not value
    return mask


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 14), st.floats(0.02, 0.6), st.floats(0.0, 0.5))
def test_specks_are_those_of_the_whole_photograph_wherever_the_object_lies(
    seed: int, height: int, width: int, density: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < density
    mask[rng.integers(height) :] = False
    mask[:, rng.integers(width) :] = False
    mask[rng.integers(height), rng.integers(width)] = True
    points = [(int(rng.integers(height)), int(rng.integers(width))) for _ in range(rng.integers(3))]
    distance = np.where(mask, 0.5, 3.0).astype(np.float32)

    kept = np.zeros_like(mask)
    for point in points:
        kept[point] = True
    expected = smoothed_by_definition(mask, share, points)

    smooth_specks(distance, share, points)

    assert np.array_equal(distance <= 1.0, expected)
    assert np.array_equal(without_specks(mask, share, kept), expected)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_mask_that_is_all_or_nothing_stays(value: float) -> None:
    distance = np.full((6, 6), value, np.float32)

    smooth_specks(distance, 0.01, points=[(2, 2)])

    assert (distance == value).all()


def test_a_resized_edge_is_smooth_where_a_resized_mask_has_stairs() -> None:
    y, x = np.mgrid[:50, :50]
    radius = 15.0
    distance = (np.hypot(y - 24.5, x - 24.5) / radius).astype(np.float32)

    mask = object_at(distance, (400, 400))

    y, x = np.mgrid[:400, :400]
    exact = np.hypot((y + 0.5) / 8 - 25, (x + 0.5) / 8 - 25) <= radius
    stairs = np.kron(distance <= 1.0, np.ones((8, 8), bool))
    assert (mask != exact).sum() < 0.25 * (stairs != exact).sum()


def test_infinite_distances_do_not_spread_when_resized() -> None:
    distance = np.full((10, 10), np.inf, np.float32)
    distance[3:7, 3:7] = 0.0

    rows, cols = np.nonzero(object_at(distance, (80, 80)))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (24, 55, 24, 55)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([0.02, 0.3, 0.9]),
)
def test_the_object_at_full_size_is_that_of_the_whole_distance_interpolated(
    seed: int, few: tuple[int, int], many: tuple[int, int], share: float
) -> None:
    generator = np.random.default_rng(seed)
    distance = np.where(generator.random(few) < share, 0.3, 1.9).astype(np.float32)
    distance += generator.random(few).astype(np.float32) / 16  # so that no pixel lies exactly on an edge

    whole = cv2.resize(distance, many[::-1], interpolation=cv2.INTER_LINEAR)
    differs = object_at(distance, many) != (whole <= 1.0)
    assert np.abs(whole[differs] - 1.0).max(initial=0.0) < 1e-5, "only rounding may tell them apart"


def test_a_small_object_in_a_photograph_of_100_megapixels_takes_the_memory_of_its_mask_alone() -> None:
    distance = np.full((768, 1024), np.float32(2.0))
    distance[300:340, 500:560] = 0.0

    tracemalloc.start()
    mask = object_at(distance, (8660, 11547))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * mask.nbytes


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_far_pixels_do_not_change_the_smooth_distance_near_an_object(
    seed: int, height: int, width: int, share: float
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    wider = np.pad(mask, 40)

    distance = smooth_distance_of(wider)[40 : 40 + height, 40 : 40 + width]
    inner = np.s_[12:-12, 12:-12]  # at the border of the image the distance goes on as it ends there
    assert np.allclose(distance[inner], smooth_distance_of(mask)[inner], rtol=0, atol=1e-6)
    assert (smooth_distance_of(wider)[:20] == 2.0).all()


def test_a_sharp_edge_is_stable_and_a_slow_slope_is_not() -> None:
    sharp = np.where(np.arange(100) < 50, 0.1, 9.0)[None].astype(np.float32)
    slope = np.linspace(0.85, 1.15, 100, dtype=np.float32)[None]

    assert stability(sharp) == 1.0
    assert stability(slope) < 0.3
    assert stability(np.full((4, 4), 9.0, np.float32)) == 0.0
