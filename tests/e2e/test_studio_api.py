"""The backend's commands with the API of the real Label Studio, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from editor import iou
from pictures import DISC, SIZE, disc, mask_of, save_scene
from rig import Backend, Studio
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.labelstudio.client import LabelStudioClient


def saved_point(x: float, y: float) -> dict[str, Any]:
    """A key point that an annotator left without accepting a mask."""
    value = {"x": 100 * x / SIZE[0], "y": 100 * y / SIZE[1], "width": 0.3, "keypointlabels": ["Person"]}
    control = {"from_name": "keypoint", "to_name": "image", "type": "keypointlabels", "id": "point"}
    return {**control, "original_width": SIZE[0], "original_height": SIZE[1], "value": value}


def run(command: str, number: int, studio: Studio, cache: Path) -> str:
    environment = {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.account.token,
        "M2N2_CACHE_DIR": str(cache),
    }
    options = ["--project", str(number), "--backbone", "color", "--device", "cpu"]
    done = CliRunner(env=environment).invoke(app, [command, *options])
    assert done.exit_code == 0, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_saved_points_of_a_project_become_stored_predictions_once(
    studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    number, (first, second, third) = studio.project("batch", "brush", [save_scene(tmp_path)] * 3, backend.url)
    api: LabelStudioClient = studio.api
    api.call("POST", f"/api/tasks/{second}/annotations/", {"result": [saved_point(DISC[0], DISC[1])]})

    assert [task["id"] for task in api.upcoming(f"{number}.123", first, 5)] == [third]
    assert run("precompute", number, studio, tmp_path) == "1 encoded, 2 were there, 0 failed"
    assert run("predict-project", number, studio, tmp_path).startswith(
        "1 posted, 0 had one already, 2 without prompts"
    )
    assert run("predict-project", number, studio, tmp_path).startswith(
        "0 posted, 1 had one already, 2 without prompts"
    )

    (task,) = [task for task in api.tasks(number, whole=True) if task["id"] == second]
    (prediction,) = task["predictions"]
    assert iou(mask_of(prediction["result"]), disc()) > 0.95
