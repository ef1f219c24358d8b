from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hostile_files import png_header
from PIL import GifImagePlugin, Image, ImageFile, TiffImagePlugin

from m2n2_backend.errors import ImageTooLarge, InvalidImage
from m2n2_backend.images import FORMATS, decode_image, natural_size
from m2n2_backend.images.tiff_tags import bytes_of_tags

LIMIT = 10_000


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photograph(width: int = 8, height: int = 6) -> Image.Image:
    """Left half red, right half blue, the first row green."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    pixels[0] = (0, 255, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_give_the_pixels_that_were_saved(kind: str) -> None:
    rgb = decode_image(encoded(photograph(), kind), max_pixels=LIMIT)

    assert (rgb == np.asarray(photograph())).all()
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_give_nearly_the_pixels_that_were_saved(kind: str) -> None:
    gray = Image.new("RGB", (16, 16), (90, 120, 150))

    rgb = decode_image(encoded(gray, kind, quality=95), max_pixels=LIMIT)

    np.testing.assert_allclose(rgb, np.asarray(gray), atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "AVIF"])
def test_the_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    image = photograph(16, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif, **({"quality": 100} if kind in ("JPEG", "AVIF") else {}))
    turned = np.asarray(image).astype(int)
    # as the EXIF standard names the places of row 0 and column 0
    turned = {
        1: turned,
        2: turned[:, ::-1],
        3: turned[::-1, ::-1],
        4: turned[::-1],
        5: turned.transpose(1, 0, 2),
        6: turned[::-1].transpose(1, 0, 2),
        7: turned[::-1, ::-1].transpose(1, 0, 2),
        8: turned[:, ::-1].transpose(1, 0, 2),
    }[orientation]

    rgb = decode_image(data, max_pixels=LIMIT)

    assert rgb.shape == turned.shape
    assert np.abs(rgb - turned).mean() < 40


@pytest.mark.parametrize(
    ("kind", "orientation"),
    [(kind, orientation) for kind in FORMATS if kind not in ("BMP", "GIF") for orientation in (1, 3, 6, 8)],
)
def test_the_natural_size_is_that_of_the_decoded_pixels(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph(16, 8), kind, exif=exif)

    height, width = decode_image(data, max_pixels=LIMIT).shape[:2]

    assert natural_size(data, max_pixels=LIMIT) == (width, height)


def test_an_orientation_behind_the_pixels_of_a_png_counts_in_both_or_in_neither() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    early = encoded(photograph(16, 8), exif=exif)
    start = early.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(early[start : start + 4], "big")
    end = early.index(b"IEND") - 4
    late = early[:start] + early[stop:end] + early[start:stop] + early[end:]

    height, width = decode_image(late, max_pixels=LIMIT).shape[:2]

    assert natural_size(late, max_pixels=LIMIT) == (width, height)


def test_cmyk_becomes_rgb() -> None:
    rgb = decode_image(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"), max_pixels=LIMIT)

    np.testing.assert_allclose(rgb[0, 0], (255, 0, 0), atol=8)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_becomes_rgb(mode: str) -> None:
    rgb = decode_image(encoded(Image.new(mode, (3, 2), 1 if mode == "1" else 77)), max_pixels=LIMIT)

    assert rgb.shape == (2, 3, 3)
    assert (rgb == (255 if mode == "1" else 77)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_samples_are_scaled_by_their_own_range(kind: str) -> None:
    samples = np.array([[1000, 2000], [3000, 5000]], np.uint16)

    rgb = decode_image(encoded(Image.fromarray(samples), kind), max_pixels=LIMIT)

    assert rgb[:, :, 0].tolist() == [[0, 64], [128, 255]]
    assert (rgb[:, :, 0] == rgb[:, :, 2]).all()


def test_a_constant_16_bit_image_is_black() -> None:
    rgb = decode_image(encoded(Image.fromarray(np.full((2, 2), 4000, np.uint16))), max_pixels=LIMIT)

    assert (rgb == 0).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)

    rgb = decode_image(
        encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})), max_pixels=LIMIT
    )

    assert rgb.tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_color_of_a_palette_is_white(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putdata([0, 1])

    rgb = decode_image(encoded(image, kind, transparency=0), max_pixels=LIMIT)

    assert rgb.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_a_transparent_color_of_an_rgb_image_is_white() -> None:
    rgb = decode_image(encoded(photograph(), transparency=(0, 0, 255)), max_pixels=LIMIT)

    assert (rgb[3, 7] == 255).all()
    assert rgb[3, 0].tolist() == [255, 0, 0]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (4, 3), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert (decode_image(data, max_pixels=LIMIT) == (250, 0, 0)).all()


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_file_that_was_cut_off_and_that_browsers_show_nothing_of_is_an_invalid_image(
    kind: str, share: float
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = encoded(noise, kind)

    with pytest.raises(InvalidImage, match="may be cut off"):
        decode_image(data[: int(len(data) * share)], max_pixels=LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!doctype html><title>Sign in</title>",
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    for read in (decode_image, natural_size):
        with pytest.raises(InvalidImage):
            read(data, max_pixels=LIMIT)


def test_a_format_that_is_not_wanted_is_refused_although_it_could_be_read() -> None:
    with pytest.raises(InvalidImage, match="not an image of the formats JPEG, PNG"):
        decode_image(encoded(photograph(), "PPM"), max_pixels=LIMIT)


@pytest.mark.parametrize(("width", "height"), [(101, 100), (60_000, 60_000), (2_000_000_000, 2_000_000_000)])
def test_too_many_pixels_are_refused_by_the_header_alone(width: int, height: int) -> None:
    for read in (decode_image, natural_size):
        with pytest.raises(ImageTooLarge, match="pixels"):
            read(png_header(width=width, height=height), max_pixels=LIMIT)


def test_as_many_pixels_as_allowed_are_decoded() -> None:
    data = encoded(Image.new("RGB", (100, 100)))

    assert decode_image(data, max_pixels=LIMIT).shape == (100, 100, 3)
    with pytest.raises(ImageTooLarge, match="100x100 pixels, at most 9999"):
        decode_image(data, max_pixels=LIMIT - 1)


def test_a_size_of_nothing_is_an_invalid_image() -> None:
    with pytest.raises(InvalidImage):
        decode_image(png_header(width=0, height=5), max_pixels=LIMIT)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_the_size_is_read_without_the_pixels(
    kind: str, orientation: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, object] = {"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}
    if orientation is not None:
        if kind in ("BMP", "GIF"):
            return  # have none
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    data = encoded(photograph(), kind, **options)
    height, width = decode_image(data, max_pixels=LIMIT).shape[:2]

    def refused(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    for cls in (ImageFile.ImageFile, TiffImagePlugin.TiffImageFile, GifImagePlugin.GifImageFile, Image.Image):
        monkeypatch.setattr(cls, "load", refused)
    assert natural_size(data, max_pixels=LIMIT) == (width, height)


def tags_of_the_same_bytes(count: int, size: int) -> bytes:
    """A TIFF's header and directory; each tag names the file's end."""
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 7, size, 8) for tag in range(count))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", count) + entries + bytes(4) + bytes(size)


@pytest.mark.parametrize("big", [False, True])
def test_tags_that_name_the_same_bytes_again_and_again_are_not_read(big: bool) -> None:
    data = tags_of_the_same_bytes(1000, 100_000)
    if big:
        entries = b"".join(struct.pack(">HHQQ", 1000 + tag, 7, 100_000, 16) for tag in range(1000))
        data = b"MM\0+\0\x08\0\0" + struct.pack(">QQ", 16, 1000) + entries + bytes(100_000)
    with pytest.raises(ImageTooLarge, match="tags"):
        natural_size(data, max_pixels=LIMIT)


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\0\0"])
def test_tags_of_a_broken_file_are_nothing(data: bytes) -> None:
    assert bytes_of_tags(data) == 0
