"""Files that are no photographs, or would unfold to too much: refused by their first bytes, over a socket."""

from __future__ import annotations

import pytest
from fetch_trap import Prey
from hostile_files import JPEG_SIZE, jpeg_of_many_scans, png_header, resized, saved, tiff_header

ALLOWED = "at most 100000000 allowed (M2N2_MAX_IMAGE_PIXELS)"
LARGE = f"413 image has 20000x10000 pixels, {ALLOWED}"
BODIES: dict[str, tuple[bytes, str]] = {
    "PNG of 200 megapixels": (png_header(), LARGE),
    "BMP of 200 megapixels": (resized(saved("BMP"), 18, "<ii"), LARGE),
    "TIFF of 200 megapixels": (tiff_header(), LARGE),
    "JPEG of 200 megapixels": (
        resized(saved("JPEG"), JPEG_SIZE, ">HH", 10_000, 20_000),
        LARGE,
    ),
    "PNG of 100 megapixels and one row": (
        png_header(width=10_000, height=10_001),
        "413 image has 10000x10001 pixels, at most 100000000 allowed",
    ),
    "GIF of 4 gigapixels": (resized(saved("GIF"), 6, "<HH", 65_535, 65_535), "413 image has 65535x65535 pixels"),
    "WebP of 268 megapixels": (
        resized(saved("WEBP", lossless=True), 21, "<HH", 0xFFFF, 0xFFFF),
        f"413 image has 16384x16384 pixels, {ALLOWED}",
    ),
    "JPEG of 20,000 scans": (jpeg_of_many_scans(), "413 JPEG with more than 100 scans"),
    "BMP of run lengths": (saved("BMP")[:30] + b"\1\0\0\0" + saved("BMP")[34:], "422 run-length encoded BMP"),
    "SVG": (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"/>',
        "422 not an image of pixels but an SVG drawing",
    ),
    "SVG that reads a file": (
        b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&x;</svg>',
        "422 not an image of pixels but an SVG drawing",
    ),
    "web page that says it is a PNG": (b"<html><script>alert(1)</script></html>", "422 not an image but a web page"),
    "PostScript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n(x) run\n",
        "422 not an image that can be read but a PostScript",
    ),
    "nothing": (b"", "422 not an image: the file is empty"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_file_that_is_no_photograph_is_refused_by_its_first_bytes(prey: Prey, name: str) -> None:
    data, refusal = BODIES[name]
    prey.studio.files["hostile"] = data
    assert prey.asked_for("/file/hostile").startswith(refusal)


@pytest.mark.parametrize("kind", ["image/svg+xml", "application/pdf", "text/plain", "application/json"])
def test_what_a_file_says_it_is_does_not_matter_but_for_web_pages(prey: Prey, kind: str) -> None:
    prey.studio.files["typed"], prey.studio.kinds["typed"] = b"no image", kind
    assert prey.asked_for("/file/typed").startswith("422 not an image")
    prey.studio.kinds["typed"] = "text/html; charset=utf-8"
    assert prey.asked_for("/file/typed").startswith("424 Label Studio answered with a web page")
