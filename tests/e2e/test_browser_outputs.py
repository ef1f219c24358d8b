from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from editor import Editor, iou
from numpy.typing import NDArray
from PIL import Image
from pictures import mask_of
from rig import Backend, Studio

from m2n2_backend.resources import sample_photograph

CLICKS = ((230, 60, True), (215, 380, True), (120, 60, False))
"""On the sample photograph: hair, suit, and the wall behind."""


def written_by_segment(prompts: Sequence[dict[str, Any]], out: Path) -> NDArray[np.bool_]:
    """The mask of the command line for the clicks that the browser really sent."""
    command = [sys.executable, "-m", "m2n2_backend", "segment", str(sample_photograph()), "--backbone", "color"]
    for prompt in prompts:
        x = int(prompt["value"]["x"] / 100 * prompt["original_width"])
        y = int(prompt["value"]["y"] / 100 * prompt["original_height"])
        command += ["--click", f"{x},{y},{'fg' if prompt['is_positive'] else 'bg'}"]
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, timeout=300)
    return np.asarray(Image.open(out)) > 0


@pytest.mark.parametrize(
    ("output", "kind"), [("brush", "brushlabels"), ("bitmask", "bitmasklabels"), ("polygon", "polygonlabels")]
)
def test_what_is_submitted_is_the_mask_of_the_command_line(
    output: str, kind: str, editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    number, (task,) = studio.project(f"submitted {output}", output, [sample_photograph()], backend.url)
    editor.open(number, task)
    for x, y, positive in CLICKS:
        answer = editor.click(x, y, "Person", positive=positive)
    prompts = answer.request.post_data_json["context"]["result"]
    assert editor.painted(mask_of(answer.json()["data"]["result"])) > 0.9
    editor.accept()
    editor.submit()

    (annotation,) = studio.api.call("GET", f"/api/tasks/{task}/annotations")
    assert {region["type"] for region in annotation["result"]} == {kind}
    assert {region["value"][kind][0] for region in annotation["result"]} == {"Person"}
    stored, expected = mask_of(annotation["result"]), written_by_segment(prompts, tmp_path / "mask.png")
    if output == "polygon":
        assert iou(stored, expected) >= 0.98
    else:
        assert np.array_equal(stored, expected)
