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

# After the first clicks these are the clicks of the benchmark's simulated user, in the middle of the largest error:
# on a woman in a suit, a cup with its saucer, and a cat's head.
ASTRONAUT: Points = (
    (228, 276, True),
    (103, 306, True),
    (177, 385, True),
    (22, 263, False),
    (71, 213, False),
    (178, 496, True),
    (13, 340, False),
    (12, 450, False),
    (269, 493, True),
    (63, 240, False),
)
COFFEE: Points = (
    (283, 214, True),
    (287, 113, True),
    (161, 374, False),
    (453, 350, False),
    (403, 84, True),
    (161, 91, False),
    (145, 101, False),
    (88, 282, False),
    (131, 110, False),
    (40, 40, False),
)
CAT: Points = (
    (240, 150, True),
    (121, 88, True),
    (261, 258, True),
    (346, 31, True),
    (181, 120, True),
    (25, 166, False),
    (97, 179, True),
    (254, 23, True),
    (287, 261, True),
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
