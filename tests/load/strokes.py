"""Strokes and shapes that claim more than their image has: what they cost the web process and a bystander.

`python tests/load/strokes.py [NAME …]`: one line of figures for each attack, each on a server of its own.
"""

from __future__ import annotations

import base64
import io
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from typing import Any

from PIL import Image
from under_attack import SIZE, Running, at_once, bystander, item, key_point, picture, question, report, running

CLAIMED = (10_000, 10_000)
LARGE = (6000, 4000)


def png_stroke(size: tuple[int, int], name: str = "p1") -> dict[str, Any]:
    """A bitmask stroke that covers every pixel."""
    encoded = io.BytesIO()
    Image.new("RGBA", size, (0, 0, 0, 255)).save(encoded, "PNG", compress_level=9)
    url = "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
    return item("bitmask", "bitmask", {"imageDataURL": url, "labels": ["Object"]}, name, size)


def rle_stroke(size: tuple[int, int], name: str = "p1") -> dict[str, Any]:
    """A brush stroke that covers every pixel: runs of 65536 values of 255."""
    whole, rest = divmod(4 * size[0] * size[1], 65536)
    runs = [65536] * whole + ([rest] if rest else [])
    bits = f"{4 * size[0] * size[1]:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    bits += "".join("".join(f"111{length - 1:016b}11111111" for length in same) for _, same in groupby(runs))
    bits += "0" * (8 - len(bits) % 8)
    code = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return item("brush", "brush", {"format": "rle", "rle": list(code), "labels": ["Object"]}, name, size)


def rectangles(number: int) -> list[dict[str, Any]]:
    """Boxes of all sizes."""
    values = [
        {"x": n % 70, "y": n * 7 % 70, "width": 5 + n % 25, "height": 5 + n % 23, "rectanglelabels": ["Object"]}
        for n in range(number)
    ]
    return [item("rectanglelabels", "rectangle", value, f"r{n}") for n, value in enumerate(values)]


def polygons(number: int, corners: int) -> list[dict[str, Any]]:
    """Zigzags over the whole image."""
    points = [[100 * n / corners, 5 + 90 * (n % 2)] for n in range(corners)]
    value = {"points": points, "polygonlabels": ["Object"]}
    return [item("polygonlabels", "polygon", value, f"g{n}") for n in range(number)]


def far_polygon() -> list[dict[str, Any]]:
    """Corners that no number of pixels reaches."""
    value = {"points": [[-1e305, 10], [1e305, 20], [50, 1e305]], "polygonlabels": ["Object"]}
    return [item("polygonlabels", "polygon", value)]


ATTACKS: dict[str, tuple[tuple[int, int], int, Callable[[], list[dict[str, Any]]]]] = {
    "four PNG strokes claim 100 megapixels": (SIZE, 4, lambda: [png_stroke(CLAIMED)]),
    "four codes claim 100 megapixels": (SIZE, 4, lambda: [rle_stroke(CLAIMED)]),
    "twelve PNG strokes of one request claim 100 megapixels": (
        SIZE,
        1,
        lambda: [png_stroke(CLAIMED, f"s{n}") for n in range(12)],
    ),
    "twelve PNG strokes on 24 megapixels": (LARGE, 1, lambda: [png_stroke(LARGE, f"s{n}") for n in range(12)]),
    "twelve codes on 24 megapixels": (LARGE, 1, lambda: [rle_stroke(LARGE, f"s{n}") for n in range(12)]),
    "a brush over all of 24 megapixels": (LARGE, 1, lambda: [rle_stroke(LARGE)]),
    "a thousand rectangles": (SIZE, 1, lambda: rectangles(1000)),
    "64 rectangles": (SIZE, 1, lambda: rectangles(64)),
    "60 polygons of 10000 corners": (SIZE, 1, lambda: polygons(60, 10_000)),
    "a polygon of 10000 corners": (SIZE, 1, lambda: polygons(1, 10_000)),
    "corners at 1e305": (SIZE, 1, far_polygon),
}


def attack(server: Running, name: str) -> None:
    """Run one attack and print its figures; the attacked image is warm."""
    size, number, drawn = ATTACKS[name]
    address = server.put("attacked.jpg", picture(2, size))
    status, said = server.call("POST", "/predict", question(address, [key_point(50, 50, size=size)], task=2))
    assert status == 200, said
    body = question(address, drawn(), task=2)
    with bystander(server) as seen:
        started = time.monotonic()
        answers = at_once(number, lambda _: server.call("POST", "/predict", body))
        seconds = time.monotonic() - started
    said_by = Counter(f"{status} {said if status != 200 else ''}"[:120].strip() for status, said in answers)
    report(
        name,
        {"kB": round(len(body) / 1000), "seconds": round(seconds, 2), "answers": dict(said_by), **seen.figures()},
    )


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ATTACKS:
        with running() as backend:
            attack(backend, chosen)
