"""What a browser shows can be decoded; what it does not show is refused by what it is."""

from __future__ import annotations

import io
import tracemalloc

import hostile_files
import numpy as np
import odd_files
import pytest
from PIL import Image

from m2n2_backend.errors import ImageTooLarge, InvalidImage
from m2n2_backend.images import FORMATS, decode_image, natural_size
from m2n2_backend.images.avif import essentials
from m2n2_backend.images.png import MAX_CHUNKS

LIMIT = 100_000
WHOLE = odd_files.whole()
SIZED = odd_files.sized()
CUT_OFF = odd_files.cut_off()


@pytest.mark.parametrize("name", WHOLE)
def test_what_the_pixels_do_not_need_is_passed_over(name: str) -> None:
    tracemalloc.start()

    rgb = decode_image(WHOLE[name], max_pixels=LIMIT)

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(rgb.astype(int), odd_files.pixels(), atol=12)
    assert natural_size(WHOLE[name], max_pixels=LIMIT) == (64, 48)
    assert most < 20_000_000, "a chunk was unfolded"


@pytest.mark.parametrize("name", SIZED)
def test_the_size_is_the_one_that_a_browser_shows(name: str) -> None:
    data, size = SIZED[name]

    rgb = decode_image(data, max_pixels=LIMIT)

    assert natural_size(data, max_pixels=LIMIT) == size
    assert rgb.shape == (size[1], size[0], 3)


def test_a_picture_of_another_density_is_the_same_picture() -> None:
    data = odd_files.encoded("JPEG", quality=95, exif=odd_files.exif())

    small = np.asarray(Image.fromarray(odd_files.pixels()).resize((32, 24))).astype(int)

    np.testing.assert_allclose(decode_image(data, max_pixels=LIMIT), small, atol=12)


def test_a_density_does_not_ask_for_more_pixels_than_are_allowed() -> None:
    data = odd_files.encoded("JPEG", exif=odd_files.exif(None, (0.01, 0.01), shown=(460_800, 345_600)))

    for read in (decode_image, natural_size):
        with pytest.raises(ImageTooLarge, match="460800x345600 pixels"):
            read(data, max_pixels=10**9)


@pytest.mark.parametrize("name", CUT_OFF)
def test_of_a_file_that_was_cut_off_what_is_there_is_decoded(name: str) -> None:
    data, whole = CUT_OFF[name]
    true = decode_image(whole, max_pixels=LIMIT).astype(float)

    rgb = decode_image(data, max_pixels=LIMIT)

    assert rgb.shape == true.shape == (*natural_size(data, max_pixels=LIMIT)[::-1], 3)
    if name.startswith("progressive"):  # all of it, but coarser
        assert np.corrcoef(true.ravel(), rgb.ravel())[0, 1] > 0.8
    else:
        there = slice(-16, None) if name.startswith("BMP") else slice(0, 14)  # a BMP begins with the last row
        np.testing.assert_allclose(rgb[there], true[there])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_file_that_was_cut_off_before_its_pixels_is_refused(kind: str) -> None:
    data = odd_files.encoded(kind)

    for length in (20, 40, 60):
        with pytest.raises(InvalidImage, match=f"^{kind} .*cut off"):
            decode_image(data[:length], max_pixels=LIMIT)


@pytest.mark.parametrize("kind", FORMATS)
def test_more_pixels_than_pillow_would_allow_are_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = odd_files.encoded(kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)

    assert decode_image(data, max_pixels=LIMIT).shape == (48, 64, 3)
    assert natural_size(data, max_pixels=LIMIT) == (64, 48)
    with pytest.raises(ImageTooLarge, match="64x48 pixels, at most 3071"):
        natural_size(data, max_pixels=64 * 48 - 1)


def test_a_header_of_more_pixels_than_pillow_would_allow_is_read_where_the_setting_says_so() -> None:
    data = hostile_files.png_header(width=20_000, height=10_000)

    assert natural_size(data, max_pixels=200_000_000) == (20_000, 10_000)


def test_a_png_of_very_many_chunks_is_refused() -> None:
    with pytest.raises(ImageTooLarge, match="chunks"):
        natural_size(odd_files.png(odd_files.chunk(b"teXt", b"") * MAX_CHUNKS), max_pixels=LIMIT)


def test_pillow_gets_no_exif_tags_of_an_avif_to_read() -> None:
    tags = odd_files.exif(6)
    tags[0x010E] = "description"
    data = odd_files.encoded("AVIF", exif=tags)

    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(essentials(data))) as after:
        assert 0x010E in before.getexif()
        assert dict(after.getexif()) == {0x0112: 6}


def float_tiff() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)).save(stream, "TIFF")
    return stream.getvalue()


REFUSED = {
    "a float TIFF": (float_tiff(), "TIFF of floating-point samples is not read: save the image as 16-bit"),
    "SVG": (b"<?xml version='1.0'?>\n<!-- made by -->\n<svg xmlns='x'/>", "SVG drawing: export it as PNG"),
    "SVG after a mark": (b"\xef\xbb\xbf <svg/>", "SVG drawing"),
    "SVG of a name space": (b"<!DOCTYPE svg PUBLIC 'a'><svg:svg xmlns:svg='x'/>", "SVG drawing"),
    "a web page": (b"<!DOCTYPE html>\n<html>", "a web page: check that the address"),
    "a web page with a drawing in it": (b"<html><body><svg/></body></html>", "a web page"),
    "a storage's error": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
    "JSON": (b'{"detail": "Not found."}', "not an image but JSON"),
    "PDF": (b"%PDF-1.7\n", "a PDF document: export its pages"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photograph.*save it as JPEG"),
    "a video": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video: take its frames out"),
    "JPEG XL": (b"\xff\x0a\xfa\x1f", "a JPEG XL image: save it as PNG"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image: save it as PNG"),
    "an icon": (odd_files.encoded("ICO", sizes=[(16, 16)]), "a Windows icon: save it as PNG"),
    "a Photoshop document": (b"8BPS\0\1", "a Photoshop document"),
    "DICOM": (bytes(128) + b"DICM\2\0", "a DICOM file: export it"),
    "gzip": (b"\x1f\x8b\x08\0", "a gzip archive"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "nothing": (b"", "the file is empty"),
    "zeros": (bytes(5000), "nothing but zeros"),
    "BMP of run lengths": (
        odd_files.encoded("BMP", Image.new("L", (8, 8)))[:30] + b"\1\0\0\0" + bytes(2000),
        "run-length encoded BMP",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_a_cure(name: str) -> None:
    data, words = REFUSED[name]

    for read in (decode_image, natural_size):
        with pytest.raises(InvalidImage, match=words):
            read(data, max_pixels=LIMIT)


def test_without_avif_in_pillow_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    with pytest.raises(InvalidImage, match=r"install Pillow 11\.3 or later"):
        natural_size(odd_files.encoded("AVIF"), max_pixels=LIMIT)
