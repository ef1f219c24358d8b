from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from editor import Editor, OpenEditor, iou
from pictures import DISC, PLATE, disc, mask_of, plate, save_scene, scene
from rig import Backend, Studio, free_port, running_backend, sign_up

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ON_PLATE = ((PLATE[0] + PLATE[2]) // 2, (PLATE[1] + PLATE[3]) // 2)


def test_a_click_after_the_backend_was_killed_and_restarted_works(
    editor: Editor, studio: Studio, tmp_path: Path
) -> None:
    port = free_port()
    with running_backend(studio, studio.account.token, port) as backend:
        number, (task,) = studio.project("killed", "old/brush", [save_scene(tmp_path)], backend.url)
        editor.open(number, task)
        editor.click(DISC[0], DISC[1])
        backend.program.kill()
        with editor.answering("Object") as answer:
            editor.press(DISC[0] + 20, DISC[1])
        assert answer().json()["errors"]
    with running_backend(studio, studio.account.token, port):
        # The page does not know: the same page continues with the earlier prompts.
        again = editor.click(DISC[0], DISC[1] + 30)
        assert len(again.request.post_data_json["context"]["result"]) == 3
        mask = mask_of(again.json()["data"]["result"])
    assert iou(mask, disc()) > 0.95
    assert editor.painted(mask) > 0.9
    editor.accept()
    assert [region["type"] for region in editor.regions()] == ["brushlabels"]


def test_opening_a_task_encodes_its_image_and_those_of_the_next_tasks(
    editor: Editor, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    images = [tmp_path / f"{index}.jpg" for index in range(4)]
    for index, path in enumerate(images):
        scene((320 + int.from_bytes(os.urandom(1), "big"), 240 + index)).save(path)
    number, tasks = studio.project("prefetch", "brush", images, backend.url)
    before = encoded(backend)
    editor.open(number, tasks[0])
    end = time.monotonic() + 180
    while encoded(backend) < before + 3 and time.monotonic() < end:
        time.sleep(0.1)
    assert encoded(backend) == before + 3


def encoded(backend: Backend) -> float:
    """Number of images that the model has run on, as the backend counts them."""
    text = httpx.get(f"{backend.url}/metrics").text
    return sum(float(value) for value in re.findall(r"^m2n2_worker_encoded_total\{.*\} (.*)$", text, re.MULTILINE))


def test_two_annotators_on_one_task_do_not_disturb_each_other(
    open_editor: OpenEditor, browser: Browser, studio: Studio, backend: Backend, tmp_path: Path
) -> None:
    number, (task,) = studio.project("two", "old/brush", [save_scene(tmp_path)], backend.url, maximum_annotations=2)
    first, second = open_editor(), open_editor(sign_up(browser, studio, "second@example.com", "second annotator"))
    first.open(number, task)
    second.open(number, task)
    with first.answering("Person") as of_first, second.answering("Person") as of_second:
        # The two do not wait for each other's answers.
        first.press(*DISC[:2])
        second.press(*ON_PLATE)
    first.shown(of_first())
    second.shown(of_second())
    first.click(DISC[0] + 20, DISC[1], "Person")
    second.click(*DISC[:2], "Person", positive=False)
    first.accept()
    second.accept()
    ids = [first.submit(), second.submit()]

    stored = {each["id"]: each for each in studio.api.call("GET", f"/api/tasks/{task}/annotations")}
    assert sorted(stored) == sorted(ids)
    assert stored[ids[0]]["completed_by"] != stored[ids[1]]["completed_by"]
    for number, truth in zip(ids, (disc(), plate()), strict=True):
        assert [region["type"] for region in stored[number]["result"]] == ["brushlabels"]
        assert iou(mask_of(stored[number]["result"]), truth) > 0.95
