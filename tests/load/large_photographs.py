"""First and new clicks on a photograph of 25 megapixels beside one of 854 × 480: milliseconds, and their ratio.

`python tests/load/large_photographs.py`, on a machine that does nothing else. The large photograph is made of the
sample photographs side by side. `M2N2_BACKBONE=vit M2N2_MODEL=DIR` measures another backbone, `M2N2_VIEWS=false` the
large photograph without views.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

from many_clicks import cpu_seconds
from PIL import Image
from under_attack import Running, key_point, question, report, running

SMALL, LARGE = (854, 480), (6 * 960, 8 * 540)
CLICKS = 12
"""Clicks on each object, all inside of the tile in which the first one is."""

STARTS = ((0.42, 0.44), (0.58, 0.31), (0.25, 0.68))
"""Objects: shares of the photograph's width and height."""

_SAMPLES = Path(__file__).parents[2] / "m2n2_backend" / "samples"


@cache
def _tile(number: int, size: tuple[int, int]) -> Image.Image:
    files = sorted(_SAMPLES.glob("*.jpg"))
    return Image.open(files[number % len(files)]).convert("RGB").resize(size)


def photograph(size: tuple[int, int], across: int, down: int) -> bytes:
    """A JPEG of the sample photographs, ``across`` × ``down`` of them."""
    canvas, tile = Image.new("RGB", size), (size[0] // across, size[1] // down)
    for number in range(across * down):
        canvas.paste(_tile(number, tile), (number % across * tile[0], number // across * tile[1]))
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=90)
    return file.getvalue()


def clicks(start: tuple[float, float], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Key points around the first one, every third one background."""
    places = [
        (start[0] * size[0] + 17 * (i % 4) * (-1) ** i, start[1] * size[1] + 13 * (i % 5)) for i in range(CLICKS)
    ]
    percent = [(100 * x / size[0], 100 * y / size[1]) for x, y in places]
    return [key_point(x, y, f"p{i}", size, positive=i % 3 != 2) for i, (x, y) in enumerate(percent)]


class Photograph:
    """One photograph on the server, and what its clicks took."""

    def __init__(self, server: Running, size: tuple[int, int], across: int, down: int) -> None:
        self._server, self._size = server, size
        self._address = server.put(f"{size[0]}.jpg", photograph(size, across, down))
        self.first: list[tuple[float, float]] = []
        self.new: list[tuple[float, float]] = []
        self.bytes: list[int] = []

    def click(self, start: tuple[float, float], number: int) -> None:
        """The request after the click ``number`` of an object."""
        body = question(self._address, clicks(start, self._size)[: number + 1], task=self._size[0])
        cpu, started = cpu_seconds(self._server), time.perf_counter()
        status, said = self._server.call("POST", "/predict", body)
        seconds = time.perf_counter() - started
        assert status == 200, said
        taken = 1000 * seconds, 1000 * (cpu_seconds(self._server) - cpu)
        (self.new if number else self.first).append(taken)
        self.bytes.append(len(said))

    def figures(self) -> dict[str, float]:
        """Medians in milliseconds, and of the first click the one that encodes the photograph."""
        wall, cpu = zip(*self.new, strict=True)
        objects = [wall[first : first + CLICKS - 1] for first in range(0, len(wall), CLICKS - 1)]
        return {
            "first_click_ms": round(self.first[0][0]),
            "first_click_cpu_ms": round(self.first[0][1]),
            "new_object_cpu_ms": round(statistics.median(each[1] for each in self.first[1:])),
            "new_click_ms": round(statistics.median(wall), 1),
            "new_click_cpu_ms": round(statistics.mean(cpu), 1),
            **{f"new_click_ms_{index + 1}": round(statistics.median(each), 1) for index, each in enumerate(objects)},
            "answer_kb": round(statistics.median(self.bytes) / 1000, 1),
        }


def main() -> None:
    """Click on both in turn, so that what else the machine does falls on both."""
    backbone = os.environ.get("M2N2_BACKBONE", "color")
    with running(backbone=backbone) as server:
        both = Photograph(server, SMALL, 1, 1), Photograph(server, LARGE, 6, 8)
        for start in STARTS:
            for number in range(CLICKS):
                for each in both:
                    each.click(start, number)
        small, large = (each.figures() for each in both)
    report(f"{SMALL[0]} x {SMALL[1]}", small)
    report(f"{LARGE[0]} x {LARGE[1]}", large)
    report("ratio", {name: round(large[name] / max(small[name], 1e-9), 2) for name in small})


if __name__ == "__main__":
    main()
