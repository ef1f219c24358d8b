"""Ten clicks on each of the three photographs that are shipped: the mask grows into the object and never jumps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from editor import Editor, iou
from pictures import mask_of
from rig import OUT, Backend, Studio

from m2n2_backend.resources import sample_photographs

Points = tuple[tuple[int, int, bool], ...]

# Where the benchmark's user, who clicks the middle of the largest error, went on: a woman in a suit, a cup with its
# saucer, a cat's head.
ASTRONAUT: Points = (
    (228, 276, True),
    (104, 307, True),
    (230, 84, True),
    (50, 205, False),
    (21, 280, False),
    (301, 360, True),
    (261, 461, True),
    (175, 482, True),
    (12, 474, False),
    (47, 492, True),
)
COFFEE: Points = (
    (283, 214, True),
    (295, 113, True),
    (441, 223, True),
    (413, 373, False),
    (43, 126, False),
    (131, 194, True),
    (177, 100, True),
    (343, 285, True),
    (413, 79, False),
    (265, 9, False),
)
CAT: Points = (
    (224, 129, True),
    (105, 73, True),
    (27, 162, False),
    (113, 171, True),
    (252, 251, True),
    (222, 254, True),
    (141, 210, True),
    (73, 157, True),
    (285, 261, True),
    (336, 248, False),
)


@pytest.mark.parametrize(("name", "points"), [("astronaut", ASTRONAUT), ("coffee", COFFEE), ("cat", CAT)])
def test_of_ten_clicks_none_makes_the_mask_jump(
    name: str, points: Points, editor: Editor, studio: Studio, backend: Backend
) -> None:
    (photograph,) = [path for path in sample_photographs() if path.stem == name]
    number, (task,) = studio.project(f"ten {name}", "brush", [photograph], backend.url)
    editor.open(number, task)
    masks = []
    for count, (x, y, positive) in enumerate(points, start=1):
        masks.append(mask_of(editor.click(x, y, positive=positive).json()["data"]["result"]))
        assert masks[-1][y, x] == positive
        if count in (1, 2, 3, 6, 10):
            assert editor.painted(masks[-1]) > 0.9
            editor.page.screenshot(path=OUT / f"ten_clicks_{name}_{count:02d}.png")
    # The first two clicks say what the object is, the others correct it.
    kept = [round(iou(one, other), 2) for one, other in pairwise(masks[1:])]
    assert min(kept) > 0.7, kept
    assert np.mean(kept) > 0.9, kept
