from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from shared_data import grabcut_mask, grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny

from m2n2_backend.evaluation import reference
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click


@pytest.mark.parametrize("stem", ["124080", "153077", "65019"])
@needs_grabcut
@needs_vit_tiny
def test_on_photographs_the_mask_equals_the_straightforward_one(stem: str) -> None:
    rgb = np.ascontiguousarray(grabcut_photograph(stem)[::4, ::4])
    truth = grabcut_mask(stem)[::4, ::4]
    clicks = _clicks(truth)
    backbone = vit_tiny()
    # IPF's solution is unique, but two ways to it differ by the tolerance.
    segmenter = Segmenter(backbone, Hyperparameters(tolerance=1e-5))
    state = segmenter.encode(rgb)
    plain = reference.encode(rgb, backbone.features(rgb), dtype=np.float32, tolerance=1e-5)

    for count in (1, len(clicks)):
        ours = segmenter.segment(state, clicks[:count])
        theirs = reference.segment(plain, clicks[:count], samples=4)
        assert (ours.mask == theirs.mask).mean() >= 0.999
    for click, flooded in zip(clicks, theirs.flooded, strict=True):
        own = segmenter.prompt_map(state, click)
        assert np.abs(own.levels * own.step - flooded).max() <= 1e-3 * flooded.max()


def _clicks(truth: NDArray[np.uint8]) -> list[Click]:
    """Two on the object and one beside it, the same in every run."""
    generator = np.random.default_rng(0)
    inside, outside = np.argwhere(truth == 255), np.argwhere(truth == 0)
    points = [*inside[generator.integers(0, len(inside), 2)], outside[generator.integers(len(outside))]]
    return [Click(int(x), int(y), positive) for (y, x), positive in zip(points, (True, True, False), strict=True)]


@needs_grabcut
@needs_vit_tiny
def test_sparse_guidance_changes_few_pixels_of_a_mask() -> None:
    rgb = grabcut_photograph("124080")
    clicks = _clicks(grabcut_mask("124080"))
    masks = []
    for samples in (0, 4):
        segmenter = Segmenter(vit_tiny(), Hyperparameters(samples=samples))
        masks.append(segmenter.segment(segmenter.encode(rgb), clicks).mask)

    assert (masks[0] == masks[1]).mean() > 0.99
