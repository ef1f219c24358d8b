"""Chromium itself says which odd files are shown, how large, and with which pixels."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import odd_files
import pytest

from m2n2_backend.errors import InvalidImage
from m2n2_backend.images import decode_image, natural_size

SHOW = """async (data) => {
    const image = new Image()
    image.src = 'data:;base64,' + data
    try { await image.decode() } catch { return null }
    const canvas = document.createElement('canvas')
    const [width, height] = [image.naturalWidth, image.naturalHeight]
    canvas.width = width
    canvas.height = height
    const context = canvas.getContext('2d')
    context.drawImage(image, 0, 0, width, height)
    return {width, height, pixels: Array.from(context.getImageData(0, 0, width, height).data)}
}"""
LIMIT = 100_000


@pytest.fixture(scope="module")
def page(chromium: Any) -> Iterator[Any]:
    page = chromium.new_page()
    page.goto("about:blank")
    yield page
    page.close()


def shown(page: Any, data: bytes) -> tuple[tuple[int, int], np.ndarray] | None:
    """Natural size and RGBA pixels in Chromium; None if it shows nothing."""
    found = page.evaluate(SHOW, base64.b64encode(data).decode())
    if found is None:
        return None
    size = found["width"], found["height"]
    return size, np.array(found["pixels"], np.uint8).reshape(size[1], size[0], 4)


WHOLE = {
    **odd_files.whole(),
    **{name: data for name, (data, _) in odd_files.sized().items()},
    **{name: odd_files.encoded(name) for name in ("BMP", "GIF", "WEBP")},
    "16-bit color": odd_files.png(image=odd_files.color_of_16_bits()),
}


@pytest.mark.parametrize("name", WHOLE)
def test_size_and_pixels_are_those_of_the_browser(page: Any, name: str) -> None:
    found = shown(page, WHOLE[name])

    assert found is not None
    size, pixels = found
    assert natural_size(WHOLE[name], max_pixels=LIMIT) == size
    np.testing.assert_allclose(decode_image(WHOLE[name], max_pixels=LIMIT).astype(int), pixels[..., :3], atol=6)


CUT_OFF = {name: data for name, (data, _) in odd_files.cut_off().items()}


@pytest.mark.parametrize("name", CUT_OFF)
def test_of_a_file_that_was_cut_off_all_that_the_browser_shows_is_there(page: Any, name: str) -> None:
    found = shown(page, CUT_OFF[name])

    assert found is not None
    size, pixels = found
    rgb = decode_image(CUT_OFF[name], max_pixels=LIMIT).astype(int)
    assert natural_size(CUT_OFF[name], max_pixels=LIMIT) == size
    # The browser leaves missing rows transparent, but guesses them in a GIF and a progressive JPEG.
    there = pixels[..., 3] > 0
    there[24:] &= not name.startswith(("GIF", "progressive"))
    off = np.abs(rgb - pixels[..., :3]).max(axis=2)[there]
    assert there.any()
    assert (off <= 32).mean() > 0.95


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM"])
def test_what_is_refused_is_no_photograph_that_the_browser_shows(page: Any, kind: str) -> None:
    data = odd_files.encoded(kind)
    if kind == "TIFF":  # browsers do not show TIFF, but users of the other commands have it
        assert shown(page, data) is None
        assert natural_size(data, max_pixels=LIMIT) == (64, 48)
        return
    assert (shown(page, data) is not None) == (kind == "ICO")  # browsers show icons, but the backend refuses them
    with pytest.raises(InvalidImage, match="save it as PNG"):
        natural_size(data, max_pixels=LIMIT)


def test_files_without_a_single_row_are_refused_by_both(page: Any) -> None:
    for kind in ("PNG", "JPEG", "GIF"):
        data = odd_files.encoded(kind)[:40]
        assert shown(page, data) is None or not shown(page, data)[1].any()  # type: ignore[index]
        with pytest.raises(InvalidImage):
            decode_image(data, max_pixels=LIMIT)
