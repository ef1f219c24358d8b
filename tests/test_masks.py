"""The masks of one minor version never change: people compare masks, and reproduce them, by the version.

``masks.json`` holds a hash of each mask with the embedded default, and the minor version that it belongs to. The bits
were the same with one and two threads, with PyTorch's kernels for AVX-512, AVX2 and plain CPUs, and with OpenCV, NumPy
and Numba without AVX. So hashes do, and no pixel is forgiven. Other versions of the libraries than those of
``constraints.txt`` may round differently.
"""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from repository import ROOT

from m2n2_backend import __version__
from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click, Scribble
from m2n2_backend.resources import sample_photographs
from m2n2_backend.settings import Settings

KEPT = ROOT / "tests" / "masks.json"
MINOR = __version__.rpartition(".")[0]
HELMET = (Click(440, 390), Click(431, 299, positive=False), Click(377, 357))
EYE, OTHER_EYE = Box(130, 80, 212, 150), Click(319, 139)

CURE = f"""
Masks have changed since {MINOR} was released, or began to be made. If they should not have, mend the change. If they
should: raise the minor version in m2n2_backend/__init__.py, say in the "Masks" section of that version in CHANGELOG.md
what changed, and write the hashes anew: python tests/test_masks.py"""


def segmenter(*, refine: bool = True) -> Segmenter:
    return Segmenter(ColorAffinity(), Settings(backbone="color", refine=refine).method())


def photographs() -> list[np.ndarray]:
    """Astronaut, cat and coffee, of which the last has four times the sides, so that parts of it are looked at."""
    astronaut, cat, coffee = (decode_image(path.read_bytes(), max_pixels=10**7) for path in sample_photographs())
    return [astronaut, cat, coffee.repeat(4, axis=0).repeat(4, axis=1)]


def segmentations() -> dict[str, Segmentation]:
    """What was asked, in words → the answer."""
    astronaut, cat, coffee = photographs()
    product, paper = segmenter(), segmenter(refine=False)
    found = {}
    state = product.encode(astronaut)
    for count in (1, 2, 3):
        found[f"helmet, {count} clicks"] = product.segment(state, HELMET[:count])
    state = paper.encode(astronaut)
    found["helmet, 3 clicks, M2N2_REFINE=off"] = paper.segment(state, HELMET)
    state = product.encode(cat)
    found["eye, box"] = product.segment(state, [], EYE)
    found["eyes, box and click"] = product.segment(state, [OTHER_EYE], EYE)
    stroke = np.zeros(cat.shape[:2], np.bool_)
    stroke[40:240, 230:240] = True
    found["face, scribble"] = product.segment(state, [Scribble.of(stroke)])
    state = product.encode(coffee)
    found["drink, 2 clicks, large photograph"] = product.segment(state, [Click(1160, 640), Click(960, 472)])
    found["handle, click, large photograph"] = product.segment(state, [Click(900, 1000)])
    found["handle, box, large photograph"] = product.segment(state, [], Box(780, 900, 1050, 1230))
    return found


def hashes(answers: dict[str, Segmentation]) -> dict[str, str]:
    return {
        name: hashlib.sha256(repr(each.mask.shape).encode() + np.packbits(each.mask).tobytes()).hexdigest()[:16]
        for name, each in answers.items()
    }


@pytest.fixture(scope="module")
def answers() -> dict[str, Segmentation]:
    return segmentations()


def test_the_masks_of_three_photographs_are_those_of_this_minor_version(answers: dict[str, Segmentation]) -> None:
    kept = json.loads(KEPT.read_text())["masks"]
    found = hashes(answers)
    changed = [name for name in kept.keys() | found.keys() if kept.get(name) != found.get(name)]
    assert not changed, f"{sorted(changed)}{CURE}"


def test_the_prompts_have_different_masks_and_parts_of_the_large_photograph_are_looked_at(
    answers: dict[str, Segmentation],
) -> None:
    assert len(set(hashes(answers).values())) == len(answers)
    views = [each.choice.view for each in answers.values() if each.choice]
    assert len({(view.height, view.width) for view in views}) == 3, "the whole, that of a click, that of a box"


def test_the_kept_hashes_belong_to_this_minor_version() -> None:
    assert json.loads(KEPT.read_text())["version"] == MINOR, (
        f"masks.json belongs to another minor version than {MINOR}: write it anew with python tests/test_masks.py, and "
        "say in CHANGELOG.md which masks changed"
    )


def test_the_changelog_says_of_each_version_whether_masks_change_and_begins_with_this_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## \[(\d+\.\d+\.\d+)\][^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert next(iter(sections)) == __version__
    assert all("### Masks\n" in section for section in sections.values())


if __name__ == "__main__":
    KEPT.write_text(json.dumps({"version": MINOR, "masks": hashes(segmentations())}, indent=2) + "\n")
