from __future__ import annotations

from editor import OpenEditor
from pictures import mask_of
from rig import Backend, FirstRun, Studio

from m2n2_backend.commands.studio import project
from m2n2_backend.commands.studio.__main__ import TITLE
from m2n2_backend.resources import label_config, sample_photographs


def test_the_command_says_where_to_click_and_leaves_no_process_behind(first_run: FirstRun) -> None:
    assert first_run.status == 0, first_run.printed
    assert not first_run.left
    for said in ("/projects/1/data", "studio@example.com", "color and texture only", "Auto-Annotation"):
        assert said in first_run.printed


def test_its_project_is_there_again_with_the_samples_and_can_be_clicked_in(
    open_editor: OpenEditor, studio: Studio, backend: Backend
) -> None:
    config = label_config("brush").read_text(encoding="utf-8")
    number = project.project_named(studio.api, TITLE, config, [])
    studio.api.connect_backend(number, backend.url)
    tasks = studio.tasks(number)
    assert (number, len(tasks)) == (1, len(sample_photographs()))
    (model,) = studio.api.models(number)
    assert model["is_interactive"]
    editor = open_editor()
    editor.open(number, tasks[0])
    editor.click(230, 60, "Object")
    editor.click(225, 170, "Object")
    mask = mask_of(editor.click(120, 60, "Object", positive=False).json()["data"]["result"])
    assert mask[60, 230]
    assert mask[170, 225]
    assert not mask[60, 120]
    assert editor.painted(mask) > 0.85  # the outline of this mask is long, and drawn smoothly
