from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from editor import Editor, iou
from numpy.typing import NDArray
from pictures import mask_of
from PIL import Image
from rig import Backend, Studio

from m2n2_backend.resources import sample_photograph

CLICKS = ((230, 60, True), (215, 380, True), (120, 60, False))
"""Points on the sample photograph: hair, suit, and the wall behind."""


def as_arguments(prompts: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The clicks that the browser really sent, for the command line."""
    arguments = []
    for prompt in prompts:
        x = int(prompt["value"]["x"] / 100 * prompt["original_width"])
        y = int(prompt["value"]["y"] / 100 * prompt["original_height"])
        arguments += ["--click", f"{x},{y},{'fg' if prompt['is_positive'] else 'bg'}"]
    return tuple(arguments)


@functools.cache
def written_by_segment(clicks: tuple[str, ...]) -> NDArray[np.bool_]:
    """The mask of the command line, which runs once for all three outputs if they were clicked at the same pixels."""
    command = [sys.executable, "-m", "m2n2_backend", "segment", str(sample_photograph()), "--backbone", "color"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "mask.png"
        subprocess.run([*command, *clicks, "--out", str(out)], check=True, capture_output=True, timeout=900)
        with Image.open(out) as mask:
            return np.asarray(mask) > 0


@pytest.mark.parametrize(
    ("output", "kinds"), [("brush", {"labels"}), ("bitmask", {"labels"}), ("polygon", {"polygon", "labels"})]
)
def test_what_is_submitted_is_the_mask_of_the_command_line(
    output: str, kinds: set[str], editor: Editor, studio: Studio, backend: Backend
) -> None:
    number, (task,) = studio.project(f"submitted {output}", output, [sample_photograph()], backend.url)
    editor.open(number, task)
    for x, y, positive in CLICKS:
        answer = editor.click(x, y, "Person", positive=positive)
    prompts = answer.request.post_data_json["context"]["result"]
    if output != "polygon":  # the editor draws only the outline of a polygon
        assert editor.painted(mask_of(answer.json()["data"]["result"])) > 0.9
    editor.accept()
    editor.submit()

    (annotation,) = studio.api.call("GET", f"/api/tasks/{task}/annotations")
    assert {region["type"] for region in annotation["result"]} == kinds
    assert {tuple(region["value"].get("labels", ["Person"])) for region in annotation["result"]} == {("Person",)}
    stored, expected = mask_of(annotation["result"]), written_by_segment(as_arguments(prompts))
    if output == "polygon":
        assert iou(stored, expected) >= 0.98
    else:
        assert np.array_equal(stored, expected)
