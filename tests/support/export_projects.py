"""Makes projects with masks of two classes, and runs the command that exports them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from exported_files import Mask, drawn, region
from fake_label_studio import LEGACY, FakeLabelStudio
from label_studio_fakes import labels
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.resources import label_config

SHAPE = (120, 160)
FORMATS = ("coco", "yolo", "voc", "png")
IMAGE = '<Image name="image" value="$image"/>'
POINTS = f'<KeyPointLabels name="keypoint" toName="image" smart="true">{labels("Person", "Vehicle")}</KeyPointLabels>'
NAMES = labels("Person", "Vehicle")


def config(*controls: str, image: str = IMAGE) -> str:
    return f"<View><Style>.a {{color: red}}</Style>{image}{''.join(controls)}</View>"


def output(tag: str, name: str = "mask", names: str = NAMES, **attributes: str) -> str:
    more = "".join(f' {key}="{value}"' for key, value in {"toName": "image", "smart": "false", **attributes}.items())
    return f'<{tag} name="{name}"{more}>{names}</{tag}>'


OUTPUTS = ("brush", "bitmask", "polygon")
SHIPPED = {
    name: label_config(name).read_text(encoding="utf-8")
    for name in (*OUTPUTS, "shapes", *(f"old/{output}" for output in OUTPUTS))
}
CONFIGS = {**SHIPPED, "rectangle": config(output("RectangleLabels"), POINTS)}


def ring() -> Mask:
    """A mask with a hole and a second part."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(x - 60, y - 60)
    return (distance < 45) & (distance > 15) | (x > 130) & (x < 150) & (y > 20) & (y < 70)


def plate() -> Mask:
    mask = np.zeros(SHAPE, bool)
    mask[28:56, 7:93] = True  # the SDK computes 28 of 120 pixels as 27.999…
    return mask


def point(name: str = "p", x: float = 40.0, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": 50.0, "width": 0.3}
    return region("keypoint", value, ["Person"], name, **{"shape": SHAPE, "from_name": "keypoint", **more})


def prompt_box(name: str = "r", **more: Any) -> dict[str, Any]:
    (box,) = drawn("rectangle", plate(), "Person", name=name, **{"from_name": "rectangle", **more})
    return box


def export(studio: FakeLabelStudio, format: str, out: Path, project: int = 1) -> tuple[int, str]:
    """Run the command; returns its exit status and what it printed."""
    environment = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": LEGACY, "COLUMNS": "250"}
    arguments = ["export", "--project", str(project), "--format", format, "--out", str(out)]
    done = CliRunner(env=environment).invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


def annotate(studio: FakeLabelStudio, task: int, *results: dict[str, Any], **more: Any) -> None:
    """Add one annotation."""
    annotations = studio.tasks[task - 1]["annotations"]
    annotations.append({"id": 100 * task + len(annotations), "result": list(results), "was_cancelled": False, **more})
