"""The codes of strokes, and strokes and polygons laid over a raster, against what they are defined by."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hostile_files import chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk.converter.brush import decode_rle, encode_rle
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.labelstudio.contract.strokes import alpha_of_code, alpha_of_png
from m2n2_backend.prompts import Polygon, Prompts, Scribble

seeds = st.integers(0, 10**6)


def packed(rng: np.random.Generator, height: int, width: int) -> bytes:
    """A code of random runs, and of values that stand one by one, with lengths in random numbers of bits."""
    count, place = 4 * height * width, 0
    sizes = rng.integers(1, 17, 4).tolist()
    bits = [f"{count:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    while place < count:
        name, is_run = int(rng.integers(4)), bool(rng.integers(2))
        length = int(rng.integers(1, 1 + min(count - place, 1 << sizes[name])))
        values = rng.integers(0, 256, 1 if is_run else length).tolist()
        bits += [f"{is_run:b}{name:02b}{length - 1:0{sizes[name]}b}", *(f"{value:08b}" for value in values)]
        place += length
    text = "".join(bits)
    return int(text.ljust(-len(text) % 8 + len(text), "0"), 2).to_bytes((len(text) + 7) // 8, "big")


@settings(max_examples=80, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_a_code_is_read_as_the_sdk_reads_it(seed: int, height: int, width: int) -> None:
    code = packed(np.random.default_rng(seed), height, width)
    expected = decode_rle(list(code)).reshape(height, width, 4)[..., 3]
    assert np.array_equal(alpha_of_code(code, width, height), expected)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 4, 256]))
def test_a_code_that_the_sdk_writes_is_read(seed: int, height: int, width: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    rgba = (rng.integers(0, values, (height, width, 4)) * (255 // (values - 1))).astype(np.uint8)
    if seed % 2:
        rgba[:] = np.sort(rgba, axis=0)  # longer runs
    assert np.array_equal(alpha_of_code(bytes(encode_rle(rgba.ravel().tolist())), width, height), rgba[..., 3])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_a_code_of_any_bytes_is_read_or_refused(rest: bytes, height: int, width: int) -> None:
    code = (4 * width * height).to_bytes(4, "big") + rest
    try:
        alpha = alpha_of_code(code, width, height)
    except InvalidPrompt:
        return
    assert alpha.shape == (height, width)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L", "1", "I;16", "P", "P with transparency"])
def test_a_png_of_any_mode_has_the_opacity_that_pillow_gives_it(mode: str) -> None:
    rgba = Image.fromarray(np.random.default_rng(4).integers(0, 256, (30, 20, 4)).astype(np.uint8), "RGBA")
    name, _, transparent = mode.partition(" ")
    image = Image.new("I;16", (20, 30)) if name == "I;16" else rgba.convert(name)
    file = io.BytesIO()
    image.save(file, "PNG", **({"transparency": 3} if transparent else {}))
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGBA"))[..., 3]
    assert np.array_equal(alpha_of_png(file.getvalue(), 20, 30), expected)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 3000), st.integers(1, 700), st.sampled_from(["RGBA", "LA"]))
def test_a_png_read_in_blocks_has_the_opacity_that_pillow_gives_it(
    seed: int, width: int, height: int, mode: str
) -> None:
    rng = np.random.default_rng(seed)
    lines = rng.integers(0, 256, (height, 1 + len(mode) * width), np.uint8)
    lines[:, 0] = rng.integers(0, 5, height)  # each row by one of PNG's filters
    head = struct.pack(">IIBBBBB", width, height, 8, {"RGBA": 6, "LA": 4}[mode], 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    data += chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)) + chunk(b"IEND", b"")
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        assert np.array_equal(alpha_of_png(data, width, height), np.asarray(image)[..., -1])


@pytest.mark.parametrize("kept", [0, 8, 20, 33, 60, -30])
def test_a_png_that_is_cut_off_is_refused(kept: int) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (30, 20, 4)).astype(np.uint8), "RGBA").save(file, "PNG")
    with pytest.raises(InvalidPrompt, match="cannot be read"):
        alpha_of_png(file.getvalue()[:kept], 20, 30)


def test_a_png_with_a_second_header_of_another_size_is_refused_before_it_is_decoded() -> None:
    headers = [chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 3, 0, 0, 0)) for size in ((64, 48), (2000, 2000))]
    rest = [chunk(b"PLTE", bytes(6)), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    with pytest.raises(InvalidPrompt, match="was not drawn on an image of 64x48 pixels"):
        alpha_of_png(b"\x89PNG\r\n\x1a\n" + b"".join(headers + rest), 64, 48)


@st.composite
def scribbles(draw: st.DrawFn) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    rng = np.random.default_rng(draw(seeds))
    mask = rng.random((draw(st.integers(1, 90)), draw(st.integers(1, 90)))) < draw(
        st.sampled_from([0.002, 0.05, 0.9])
    )
    mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
    return mask, (draw(st.integers(1, 100)), draw(st.integers(1, 100)))


@settings(max_examples=200, deadline=None)
@given(scribbles())
def test_a_scribble_covers_those_pixels_of_a_raster_in_which_one_of_its_own_has_its_center(
    drawn: tuple[NDArray[np.bool_], tuple[int, int]],
) -> None:
    mask, (rows, cols) = drawn
    height, width = mask.shape
    y, x = np.nonzero(mask)
    expected = np.zeros((rows, cols), np.bool_)
    expected[(2 * y + 1) * rows // (2 * height), (2 * x + 1) * cols // (2 * width)] = True
    scribble = Scribble.of(mask)
    assert np.array_equal(scribble.mask((height, width), (rows, cols)), expected)
    assert (scribble.x0, scribble.y0) == (x.min(), y.min())
    assert (scribble.width, scribble.height) == (np.ptp(x) + 1, np.ptp(y) + 1)
    assert np.array_equal(np.stack(scribble.pixels()), np.stack((y, x)))


def test_a_brush_over_a_whole_photograph_is_laid_over_the_raster_in_less_memory_than_a_byte_a_pixel() -> None:
    size = 3000, 4000
    scribble = Scribble.of(np.ones(size, np.bool_))
    tracemalloc.start()
    try:
        assert scribble.mask(size, (768, 1024)).all()
        assert tracemalloc.get_traced_memory()[1] < size[0] * size[1]
    finally:
        tracemalloc.stop()


def edge_by_edge(points: list[tuple[float, float]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The even-odd rule for one edge after the other."""
    corners, centers = np.array(points), np.arange(shape[0]) + 0.5
    crossed = np.zeros((shape[0], shape[1] + 1), np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = np.flatnonzero((y0 <= centers) != (y1 <= centers))
        if rows.size:
            x = x0 + (centers[rows] - y0) * ((x1 - x0) / (y1 - y0))
            crossed[rows, np.ceil(x - 0.5).clip(0, shape[1]).astype(np.intp)] ^= True
    return np.asarray(np.logical_xor.accumulate(crossed[:, :-1], axis=1))


halves = st.integers(-4, 64).map(lambda half: half / 2)
coordinates = st.floats(-40, 60) | halves | st.sampled_from([-1e9, 1e9, 1e-310])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=40), st.integers(1, 30), st.integers(1, 30))
def test_a_polygons_edges_taken_together_fill_what_they_fill_one_by_one(
    points: list[tuple[float, float]], height: int, width: int
) -> None:
    expected = edge_by_edge(points, (height, width))
    mask = Polygon(tuple(points)).mask((height, width), (height, width))
    assert np.array_equal(mask, expected) or (not expected.any() and mask.sum() == 1)


def test_a_polygon_of_more_rows_than_are_filled_at_a_time_is_whole() -> None:
    points = [(1500 + 1400 * np.cos(t), 1300 + 1200 * np.sin(3 * t)) for t in np.linspace(0, 6, 300)]
    assert np.array_equal(Polygon(tuple(points)).mask((2600, 3000), (2600, 3000)), edge_by_edge(points, (2600, 3000)))


def test_ten_thousand_corners_do_not_take_a_hundred_times_as_long_as_a_hundred() -> None:
    def seconds(corners: int) -> float:

        turns = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        polygon = Polygon(tuple((150 + 140 * np.cos(turn), 150 + 120 * np.sin(turn)) for turn in turns))
        taken = []
        for _ in range(5):
            started = time.process_time()
            polygon.mask((300, 300), (300, 300))
            taken.append(time.process_time() - started)
        return min(taken)

    assert seconds(10_000) < 30 * seconds(100)


@pytest.mark.parametrize("far", [1.1e9, 1e18, 1e305, float("inf"), float("nan")])
def test_a_corner_that_no_image_can_have_is_refused(far: float) -> None:
    for points in (((0, 0), (far, 0), (5, 5)), ((0, 0), (5, 0), (5, far)), ((-far, -far), (far, 0), (5, far))):
        with pytest.raises(InvalidPrompt, match=r"too far outside|finite numbers"):
            Prompts((), (Polygon(points),)).validate(60, 40)
