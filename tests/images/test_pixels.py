"""What a user holds → RGB: one rule for files, the service and the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from odd_files import encoded
from PIL import Image

from m2n2_backend.errors import InvalidImage
from m2n2_backend.images import decode_image, rgb_of
from m2n2_backend.images.pixels import stretched


def plate(height: int = 480, width: int = 640) -> NDArray[np.uint16]:
    """A bright plate on a dark ground, both noisy, in a small part of what 16 bits can hold."""
    samples = 1000 + np.random.default_rng(0).normal(0, 50, (height, width))
    samples[height // 4 : height // 2, width // 4 : width // 2] += 2000
    return samples.astype(np.uint16)


def color() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)


HOT: dict[str, Any] = {
    "one pixel": (np.s_[5, 5], 65535),
    "a pixel in the corner": (np.s_[0, 0], 65535),
    "a dead pixel": (np.s_[20, 20], 0),
    "a column": (np.s_[:, 600], 65535),
    "two rows": (np.s_[2:4], 65535),
    "a group": (np.s_[30:33, 7:10], 65535),
    "one in 250": (np.random.default_rng(2).random((480, 640)) < 0.004, 65535),
}


@pytest.mark.parametrize("name", HOT)
def test_pixels_that_are_rare_and_alone_do_not_take_the_range(name: str) -> None:
    place, value = HOT[name]
    samples = plate()
    samples[place] = value
    touched = np.zeros(samples.shape, bool)
    touched[place] = True

    clean, hot = stretched(plate()).astype(int), stretched(samples).astype(int)

    assert np.abs(clean - hot)[~touched].mean() < 6
    assert hot.max() - hot.min() == 255


def test_a_hot_pixel_leaves_a_16_bit_file_its_contrast() -> None:
    samples = plate()
    samples[5, 5] = 65535

    rgb = decode_image(encoded("PNG", Image.fromarray(samples)), max_pixels=400_000)

    assert rgb[120:240, 160:320].mean() - rgb[240:].mean() > 150
    assert (rgb == rgb_of(samples)).all()
    assert (rgb == rgb_of(Image.fromarray(samples))).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (6, 6), (20, 3)])
def test_a_small_object_on_an_even_ground_is_seen(height: int, width: int) -> None:
    samples = np.zeros((480, 640), np.uint16)
    samples[10 : 10 + height, 10 : 10 + width] = 3000

    eight = stretched(samples)

    assert (eight == np.where(samples, 255, 0)).all()


def test_a_small_object_does_not_bring_up_the_noise() -> None:
    samples = np.random.default_rng(0).integers(0, 20, (480, 640)).astype(np.uint16)
    samples[10:22, 10:22] = 60_000

    assert stretched(samples)[30:].max() <= 1


def test_an_ordinary_picture_keeps_all_but_its_last_percent() -> None:
    samples = np.random.default_rng(0).integers(500, 40_000, (200, 300)).astype(np.uint16)

    exact = (samples - 500.0) / 39_499.0 * 255.0

    assert np.abs(stretched(samples) - exact).max() < 3


@pytest.mark.parametrize("value", [0, 4000, 65535])
def test_an_even_picture_is_black(value: int) -> None:
    assert (stretched(np.full((7, 9), value, np.uint16)) == 0).all()


def test_samples_that_are_not_numbers_are_black_and_infinite_ones_extreme() -> None:
    samples = plate().astype(np.float64)
    samples[3, 3], samples[4, 4], samples[5, 5] = np.nan, np.inf, -np.inf

    eight = stretched(samples)

    assert (eight[3, 3], eight[4, 4], eight[5, 5]) == (0, 255, 0)
    assert np.abs(eight[10:].astype(int) - stretched(plate())[10:]).max() <= 2
    with pytest.raises(InvalidImage, match="finite"):
        stretched(np.full((4, 4), np.nan))


SAME: dict[str, Any] = {
    "uint8": color(),
    "a PIL image": Image.fromarray(color()),
    "a view": np.repeat(color(), 2, axis=1)[:, ::2],
    "floats to 1": color() / 255.0,
    "single floats to 1": (color() / 255.0).astype(np.float32),
    "floats to 255": color().astype(np.float64),
    "uint16 to 255": color().astype(np.uint16),
    "nested lists": color().tolist(),
    "channels first": color().transpose(2, 0, 1),
    "a tensor": torch.from_numpy(color()),
    "a tensor as PyTorch has photographs": (torch.from_numpy(color()).permute(2, 0, 1) / 255.0).requires_grad_(),
    "RGBA": np.dstack([color(), np.full(color().shape[:2], 255, np.uint8)]),
    "RGBA of floats": np.dstack([color() / 255.0, np.ones(color().shape[:2])]),
    "a PIL image of RGBA": Image.fromarray(color()).convert("RGBA"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_photograph_in_another_form_is_the_same(name: str) -> None:
    rgb = rgb_of(SAME[name])

    assert rgb.dtype == np.uint8
    assert (rgb == color()).all()


@pytest.mark.parametrize(
    "gray",
    [
        color()[..., 0],
        color()[..., :1],
        color()[None, ..., 0],
        color()[..., 0].tolist(),
        Image.fromarray(color()[..., 0]),
        np.dstack([color()[..., 0], np.full((30, 40), 255, np.uint8)]),
    ],
)
def test_gray_is_three_times_the_same(gray: Any) -> None:
    assert (rgb_of(gray) == color()[..., :1]).all()


def test_wide_color_keeps_its_colors() -> None:
    wide = color().astype(np.uint16) * 16  # as of a camera of 12 bits

    assert np.abs(rgb_of(wide).astype(int) - color()).max() <= 4


def test_black_and_white_is_read() -> None:
    assert (rgb_of(color()[..., 0] > 100)[..., 1] == np.where(color()[..., 0] > 100, 255, 0)).all()


def test_transparency_is_laid_on_white() -> None:
    clear = np.dstack([color(), np.zeros((30, 40), np.uint8)])
    for picture in (clear, clear / 255.0, clear.astype(np.uint16) * 257, Image.fromarray(clear)):
        assert (rgb_of(picture) == 255).all()


def test_a_pil_image_is_turned_as_its_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(color()).save(tmp_path / "a.png", exif=exif)

    with Image.open(tmp_path / "a.png") as image:
        assert (rgb_of(image) == decode_image((tmp_path / "a.png").read_bytes(), max_pixels=10_000)).all()


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ("photograph.jpg", "open it with PIL.Image.open"),
        (Path("photograph.jpg"), "open it with PIL.Image.open"),
        (b"\x89PNG", "open it with PIL.Image.open"),
        (None, "real numbers, not a NoneType"),
        (np.zeros((4, 4, 3), np.complex64), "real numbers, not a ndarray of complex64"),
        (np.zeros((4, 4, 3, 1), np.uint8), r"not of shape \[4, 4, 3, 1\]"),
        (np.zeros((1, 9, 9, 3), np.uint8), r"not of shape \[1, 9, 9, 3\]"),
        (np.zeros((9, 9, 7), np.uint8), r"not of shape \[9, 9, 7\]"),
        (np.zeros((0, 9, 3), np.uint8), r"not of shape \[0, 9, 3\]"),
        (np.zeros(9, np.uint8), r"not of shape \[9\]"),
        ([[1, 2], [3]], "not this list"),
        (np.full((4, 4, 3), np.nan), "finite number"),
    ],
)
def test_what_is_no_photograph_is_refused_in_a_sentence(picture: Any, words: str) -> None:
    with pytest.raises(InvalidImage, match=words):
        rgb_of(picture)
