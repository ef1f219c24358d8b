"""Ten small objects in a photograph of twelve megapixels: each by one rectangle, and by at most three clicks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from editor import Editor, iou
from numpy.typing import NDArray
from pictures import mask_of
from PIL import Image
from rig import OUT, Backend, Studio

SIZE = (2900, 4350)
RADIUS = 70
PLACES = tuple((400 + 880 * col, 700 + 1500 * row) for row in range(2) for col in range(5))
"""x and y of the disks."""


def disk(x: int, y: int) -> NDArray[np.bool_]:
    rows, cols = np.ogrid[: SIZE[0], : SIZE[1]]
    return np.asarray((rows - y) ** 2 + (cols - x) ** 2 <= RADIUS**2)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disks of several colors on a ground of many shades."""
    random = np.random.default_rng(3)
    shades = random.integers(70, 110, (SIZE[0] // 50, SIZE[1] // 50, 1), np.uint8)
    rgb = np.kron(shades, np.ones((50, 50, 3), np.uint8)) + random.integers(0, 12, (*SIZE, 3), np.uint8)
    for index, (x, y) in enumerate(PLACES):
        rgb[disk(x, y)] = ((215, 70, 50), (60, 90, 215), (230, 190, 60))[index % 3]
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    Image.fromarray(rgb).save(path, quality=92)
    return path


def test_each_of_ten_small_objects_takes_one_rectangle(
    editor: Editor, studio: Studio, backend: Backend, photograph: Path
) -> None:
    number, (task,) = studio.project("large rectangles", "polygon", [photograph], backend.url)
    editor.open(number, task, tool="rectangle-tool")
    margin = RADIUS + 12
    for x, y in PLACES:
        answer = editor.drag(x - margin, y - margin, x + margin, y + margin)
        assert iou(mask_of(answer.json()["data"]["result"]), disk(x, y)) > 0.85
        editor.accept()
    assert len({region["id"] for region in editor.regions() if "points" in region["value"]}) == len(PLACES)
    editor.page.screenshot(path=OUT / "large_rectangles.png")


def test_each_of_ten_small_objects_takes_at_most_three_clicks(
    editor: Editor, studio: Studio, backend: Backend, photograph: Path
) -> None:
    number, (task,) = studio.project("large clicks", "polygon", [photograph], backend.url)
    editor.open(number, task)
    for x, y in PLACES:
        for dx, dy in ((0, 0), (RADIUS // 2, 0), (0, RADIUS // 2)):
            found = iou(mask_of(editor.click(x + dx, y + dy).json()["data"]["result"]), disk(x, y))
            if found > 0.85:
                break
        assert found > 0.85
        editor.accept()
    editor.page.screenshot(path=OUT / "large_clicks.png")
