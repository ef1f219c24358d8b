"""The masks of one minor version never change: people compare masks, and reproduce them, by the version.

``masks.npz`` holds masks that the embedded default made, and the minor version that they belong to. They are masks
and not hashes, as processors round differently: with PyTorch's kernels for AVX2 instead of AVX-512, 53 of the 54,803
pixels of one mask are others (the number of threads changes nothing). So one pixel in 200 may differ. That excuses no
real change: a limit of 9.5 circles instead of 10 for a click is noticed. What no prompt here meets is not noticed.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from repository import ROOT

from m2n2_backend import __version__
from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click, Scribble
from m2n2_backend.resources import sample_photographs
from m2n2_backend.settings import Settings

KEPT = ROOT / "tests" / "masks.npz"
MINOR = __version__.rpartition(".")[0]
MOST_CHANGED = 1 / 200
"""Share of a mask's pixels that rounding may change."""

HELMET = (Click(440, 390), Click(431, 299, positive=False), Click(377, 357))
HEAD = (Click(215, 140), Click(376, 75, positive=False))
SUIT = (Click(90, 400), Click(170, 385), Click(23, 281, positive=False), Click(263, 462))
CUP = (Click(290, 134), Click(283, 71), Click(514, 84, positive=False), Click(291, 230))
FACE = (Click(250, 60), Click(103, 196), Click(276, 214), Click(60, 30), Click(40, 280))
EYE, OTHER_EYE = Box(130, 80, 212, 150), Click(319, 139)

WRITE = "PYTHONPATH=.:tests/support python tests/test_masks.py"

CURE = f"""
These masks are not those of version {MINOR} any more. If they should be, mend what changed them. If they should not:
raise the minor version in m2n2_backend/__init__.py, say in its "Masks" section in CHANGELOG.md which masks
change, and write the masks anew: {WRITE}"""


def segmenter(*, refine: bool = True) -> Segmenter:
    return Segmenter(ColorAffinity(), Settings(backbone="color", refine=refine).method())


def photographs() -> list[np.ndarray]:
    return [decode_image(path.read_bytes(), max_pixels=10**7) for path in sample_photographs()]


def segmentations() -> dict[str, Segmentation]:
    """What was asked, in words → the answer."""
    astronaut, cat, coffee = photographs()
    product, paper = segmenter(), segmenter(refine=False)
    sequences = [
        ("helmet", product, astronaut, HELMET),
        ("helmet, M2N2_REFINE=off", paper, astronaut, HELMET),
        ("head", product, astronaut, HEAD),
        ("suit", product, astronaut, SUIT),
        ("face", product, cat, FACE),
        ("cup", product, coffee, CUP),
    ]
    found = {}
    for name, method, photograph, clicks in sequences:
        state = method.encode(photograph)
        for count in range(1, len(clicks) + 1):
            found[f"{name}, clicks: {count}"] = method.segment(state, clicks[:count])
    state = product.encode(cat)
    found["eye, box"] = product.segment(state, [], EYE)
    found["eyes, box and click"] = product.segment(state, [OTHER_EYE], EYE)
    stroke = np.zeros(cat.shape[:2], np.bool_)
    stroke[40:240, 230:240] = True
    found["face, scribble"] = product.segment(state, [Scribble.of(stroke)])
    state = product.encode(coffee.repeat(4, axis=0).repeat(4, axis=1))
    found["large photograph: drink, 2 clicks"] = product.segment(state, [Click(1160, 640), Click(960, 472)])
    found["large photograph: handle, click"] = product.segment(state, [Click(900, 1000)])
    found["large photograph: handle, box"] = product.segment(state, [], Box(780, 900, 1050, 1230))
    return found


@pytest.fixture(scope="module")
def answers() -> dict[str, Segmentation]:
    return segmentations()


@pytest.fixture(scope="module")
def kept() -> dict[str, NDArray[np.generic]]:
    with np.load(KEPT) as file:
        return dict(file)


def test_the_masks_of_three_photographs_are_those_of_this_minor_version(
    answers: dict[str, Segmentation], kept: dict[str, NDArray[np.bool_]]
) -> None:
    assert answers.keys() == kept.keys() - {"version"}, CURE
    changed = {
        name: f"{count} of {area} pixels"
        for name, each in answers.items()
        if (count := int((each.mask ^ kept[name]).sum())) > MOST_CHANGED * (area := int(kept[name].sum()))
    }
    assert not changed, f"{changed}{CURE}"


def test_parts_of_the_large_photograph_are_looked_at(answers: dict[str, Segmentation]) -> None:
    views = {str(each.choice.view) for each in answers.values() if each.choice}
    assert len(views) == 3, "the whole, that of a click, that of a box"


def test_the_kept_masks_belong_to_this_minor_version(kept: dict[str, NDArray[np.str_]]) -> None:
    assert kept["version"] == MINOR, f"masks.npz is of version {kept['version']}, the package of {MINOR}: {WRITE}"


def test_the_changelog_says_of_each_version_whether_masks_change_and_begins_with_this_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## \[(\d+\.\d+\.\d+)\][^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert next(iter(sections)) == __version__
    assert all("### Masks\n" in section for section in sections.values())


if __name__ == "__main__":
    np.savez_compressed(KEPT, version=MINOR, **{name: each.mask for name, each in segmentations().items()})
