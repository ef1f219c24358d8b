from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from m2n2_backend.m2n2.refine.band import PreviousEdge, settle_edge
from m2n2_backend.m2n2.refine.color_mixture import COMPONENTS, fit_mixture, log_ratios

CELL = 8.0
WIDTH = 0.5
SHAPE = (96, 120)


def scene(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red disc with noise on green, and its true mask."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    true = (y - 48) ** 2 + (x - 60) ** 2 <= 25**2
    noise = np.random.default_rng(seed).normal(0, 12, (*SHAPE, 3))
    rgb = np.where(true[..., None], (180, 60, 60), (60, 160, 70)) + noise
    return rgb.clip(0, 255).astype(np.uint8), true


def shifted(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return np.roll(mask, pixels, axis=1)


def free(shape: tuple[int, ...] = SHAPE) -> NDArray[np.int8]:
    return np.zeros(shape, np.int8)


def distance_to_edge(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return np.where(mask, inside, cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5))


def test_an_edge_that_is_off_by_less_than_the_band_moves_to_where_the_colors_change() -> None:
    rgb, true = scene()
    rough = shifted(true, 3)
    settled = settle_edge(rgb, rough, free(), cell=CELL, width=WIDTH)
    assert np.count_nonzero(rough != true) > 200
    assert np.count_nonzero(settled != true) <= 5


def test_nothing_beyond_the_band_changes() -> None:
    rgb, true = scene()
    rough = shifted(true, 11)
    settled = settle_edge(rgb, rough, free(), cell=CELL, width=WIDTH)
    beyond = distance_to_edge(rough) > WIDTH * CELL + 0.1
    assert np.array_equal(settled[beyond], rough[beyond])
    assert not np.array_equal(settled, rough)


def test_fixed_pixels_keep_their_label_against_all_colors() -> None:
    rgb, true = scene()
    fixed = free()
    fixed[48, 60 + 24] = -1  # inside of the object, near its edge
    fixed[48, 60 - 27] = 1  # outside
    settled = settle_edge(rgb, true, fixed, cell=CELL, width=WIDTH)
    assert not settled[48, 84]
    assert settled[48, 33]


@pytest.mark.parametrize("gray", [0, 128, 255])
def test_a_flat_photograph_leaves_the_mask_nearly_as_it_is(gray: int) -> None:
    _, true = scene()
    rgb = np.full((*SHAPE, 3), gray, np.uint8)
    settled = settle_edge(rgb, true, free(), cell=CELL, width=WIDTH)
    beyond = distance_to_edge(true) > WIDTH * CELL + 0.1
    assert np.array_equal(settled[beyond], true[beyond])


def test_a_gray_photograph_is_settled_like_a_colored_one() -> None:
    rgb, true = scene()
    gray = np.repeat(rgb[..., :1], 3, axis=2)
    settled = settle_edge(gray, shifted(true, 3), free(), cell=CELL, width=WIDTH)
    assert np.count_nonzero(settled != true) <= 10


@pytest.mark.parametrize("rough", [np.zeros(SHAPE, np.bool_), np.ones(SHAPE, np.bool_)])
def test_a_mask_without_an_edge_comes_back(rough: NDArray[np.bool_]) -> None:
    rgb, _ = scene()
    assert np.array_equal(settle_edge(rgb, rough, free(), cell=CELL, width=WIDTH), rough)


def test_an_object_that_lies_in_the_band_as_a_whole_comes_back() -> None:
    rgb, _ = scene()
    rough = np.zeros(SHAPE, np.bool_)
    rough[40:44, 50:90] = True
    assert np.array_equal(settle_edge(rgb, rough, free(), cell=CELL, width=WIDTH), rough)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (2, 2)])
def test_tiny_photographs_come_back(shape: tuple[int, int]) -> None:
    rough = np.zeros(shape, np.bool_)
    rough[0, 0] = True
    rgb = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
    assert np.array_equal(settle_edge(rgb, rough, free(shape), cell=0.5, width=WIDTH), rough)


def test_where_nothing_changed_the_earlier_decision_holds() -> None:
    rgb, true = scene()
    rough = shifted(true, 3)
    earlier = settle_edge(rgb, rough, free(), cell=CELL, width=WIDTH)
    earlier[20:26, 50:70] ^= True  # whatever was decided at the top
    edited = rough.copy()
    edited[68:80, 50:70] = True
    changed = edited != rough
    settled = settle_edge(
        rgb, edited, free(), cell=CELL, width=WIDTH, earlier=PreviousEdge(earlier, changed, np.zeros_like(changed))
    )
    band = distance_to_edge(edited) <= WIDTH * CELL - 0.1
    rows = np.zeros(SHAPE, np.bool_)
    rows[:40] = True
    assert np.array_equal(settled[band & rows], earlier[band & rows])


def test_open_pixels_are_decided_however_far_from_the_edge() -> None:
    rgb, true = scene()
    rough = true.copy()
    rough[40:50, 52:62] = False  # a hole that the band alone could close from its rim only
    open_ = np.zeros(SHAPE, np.bool_)
    open_[38:52, 50:64] = True
    changed = open_.copy()
    settled = settle_edge(rgb, rough, free(), cell=CELL, width=0.2, earlier=PreviousEdge(rough, changed, open_))
    assert settled[38:52, 50:64].all()


def test_the_mixture_is_a_density_and_tells_two_colors_apart() -> None:
    rng = np.random.default_rng(4)
    red = rng.normal((180, 40, 40), 10, (500, 3)).clip(0, 255).astype(np.uint8)
    blue = rng.normal((40, 40, 180), 10, (500, 3)).clip(0, 255).astype(np.uint8)
    mixture = fit_mixture(np.concatenate([red, blue]))
    assert len(mixture) <= COMPONENTS
    ratios = log_ratios(fit_mixture(red), fit_mixture(blue), np.concatenate([red, blue]))
    assert (ratios[:500] > 0).all()
    assert (ratios[500:] < 0).all()


def test_log_ratios_are_those_of_the_gaussians_written_out() -> None:
    rng = np.random.default_rng(5)
    colors = rng.integers(0, 256, (40, 3), np.uint8)
    first, second = fit_mixture(colors[:25]), fit_mixture(colors[25:])
    upper = np.triu_indices(3, 1)

    def density(mixture: NDArray[np.float64], color: NDArray[np.uint8]) -> float:
        total = 0.0
        for own in mixture:
            inverse = np.diag(own[4:7])
            inverse[upper] = own[7:] / 2
            inverse = np.maximum(inverse, inverse.T) + np.minimum(inverse, inverse.T) - np.diag(own[4:7])
            offset = color - own[1:4]
            total += np.exp(own[0] - 0.5 * offset @ inverse @ offset)
        return float(total)

    expected = [np.log(density(first, color) / density(second, color)) for color in colors]
    assert log_ratios(first, second, colors) == pytest.approx(np.array(expected), abs=1e-6)


def test_one_color_alone_gives_one_component() -> None:
    assert fit_mixture(np.full((30, 3), 77, np.uint8)).shape == (1, 10)
