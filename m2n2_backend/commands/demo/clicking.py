"""A real server, and real requests to it as Label Studio sends them.

A drawn mask of the object plays the person who looks at the answers: after the first click, the next one goes to the
middle of what is most wrong. So each click has a purpose with any backbone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image

from m2n2_backend.commands.demo.subjects import DrawnObject, Labeled, Mask
from m2n2_backend.commands.programs import free_port, start_backend, wait_for_backend
from m2n2_backend.evaluation.clicker import OBJECT, Clicker
from m2n2_backend.prompts import Click
from m2n2_backend.resources import label_config, sample_photograph

MOST_CLICKS = 3
GOOD = 0.9
"""Overlap with the drawn mask (IoU) at which a person clicks no more."""


@contextmanager
def server(**environment: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``m2n2-backend serve`` in a process of its own on a free port, until its model answers.

    Args:
        environment: Variables set for it; ``M2N2_BACKBONE`` is color unless it is among them.

    Yields:
        Its address and the answer of /health.

    Raises:
        StudioError: It ended, or did not become ready.
    """
    own = {"M2N2_LOCAL_FILES_ROOT": str(sample_photograph().parent), "M2N2_LOG_LEVEL": "WARNING"}
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with start_backend(port, None, {"M2N2_BACKBONE": "color", **own, **environment}) as program:
        yield base, wait_for_backend(program, base)


def label(base: str, subject: DrawnObject) -> Labeled:
    """Click until the mask is good, three clicks are made, or a click changes nothing; that click is left out."""
    drawn, done = subject.drawn, Labeled(subject)
    person = Clicker(np.where(drawn, OBJECT, 0).astype(np.uint8))
    click, mask = subject.first, np.zeros_like(drawn)
    while len(done.clicks) < MOST_CLICKS:
        started = time.perf_counter()
        answer = mask_of(predict(base, subject.path, [*done.clicks, click]))
        seconds = time.perf_counter() - started
        if np.array_equal(answer, mask):
            break
        mask = answer
        done.clicks.append(click)
        done.masks.append(mask)
        done.overlaps.append(float((mask & drawn).sum() / (mask | drawn).sum()))
        done.seconds.append(seconds)
        if done.overlaps[-1] >= GOOD:
            break
        click = person.next_click(mask)
    return done


def predict(base: str, photograph: Path, clicks: Sequence[Click]) -> dict[str, Any]:
    """One interactive request about a shipped photograph, as Label Studio sends it."""
    with Image.open(photograph) as image:
        width, height = image.size
    prompts = [
        {
            "id": f"click{index}",
            "type": "keypoint",
            "from_name": "keypoint",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "is_positive": click.positive,
            "value": {
                "x": 100 * (click.x + 0.5) / width,
                "y": 100 * (click.y + 0.5) / height,
                "width": 0.3,
                "labels": ["Person"],
            },
        }
        for index, click in enumerate(clicks)
    ]
    body = {
        "tasks": [{"id": 1, "data": {"image": f"/data/local-files/?d={photograph.name}"}}],
        "project": "1",
        "label_config": label_config("brush").read_text(),
        "params": {"context": {"result": prompts}},
    }
    answer = httpx.post(f"{base}/predict", json=body, timeout=100, trust_env=False).raise_for_status()
    prediction: dict[str, Any] = answer.json()["results"][0]
    return prediction


def mask_of(prediction: dict[str, Any]) -> Mask:
    """The brush RLE of a prediction's first region → bool [H, W]."""
    region = prediction["result"][0]
    shape = (region["original_height"], region["original_width"], 4)
    return np.asarray(decode_rle(region["value"]["rle"]).reshape(shape)[..., 3] > 0)
