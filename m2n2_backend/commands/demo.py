"""``python -m m2n2_backend.commands.demo DIR``: a real server, three real clicks, a picture of the answer."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image
from rich.console import Console
from rich.table import Table

from m2n2_backend.commands.programs import free_port, start_backend, wait_for_backend
from m2n2_backend.overlay import draw_overlay
from m2n2_backend.prompts import Click
from m2n2_backend.resources import label_config, sample_photograph

CLICKS = (Click(228, 276), Click(228, 205), Click(60, 60, positive=False))
"""On the sample photograph: the collar's ring, which is enough for head and collar, neck, and the flag behind."""


def main() -> None:
    """Run the demonstration; the folder for the pictures is the first argument, ``out`` by default."""
    parser = argparse.ArgumentParser(
        description="Start a server, click three times, and save a picture of the answer."
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out"), help="where the picture goes")
    folder: Path = parser.parse_args().folder
    # The server has a process group of its own, which a signal to this one does not reach.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    with server() as (base, health):
        console.print(f"server: {base}  backbone: {health['backbone']}")
        table = Table("request", "clicks", "seconds", "score", "object pixels")
        for count in range(1, len(CLICKS) + 1):
            started = time.perf_counter()
            prediction = predict(base, CLICKS[:count])
            seconds = time.perf_counter() - started
            mask = mask_of(prediction)
            score = f"{prediction['score']:.2f}"
            table.add_row(f"POST /predict {count}", str(count), f"{seconds:.3f}", score, str(int(mask.sum())))
    console.print(table)
    rgb = np.asarray(Image.open(sample_photograph()).convert("RGB"))
    path = folder / "demo.png"
    Image.fromarray(draw_overlay(rgb, mask, CLICKS)).save(path)
    console.print(f"overlay: {path}")


@contextmanager
def server(**environment: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``m2n2-backend serve`` in a process of its own on a free port, until its model answers.

    Args:
        environment: Variables set for it; ``M2N2_BACKBONE`` is color unless it is set here or outside.

    Yields:
        Its address and the answer of /health.

    Raises:
        StudioError: It ended, or did not become ready.
    """
    own = {"M2N2_LOCAL_FILES_ROOT": str(sample_photograph().parent), "M2N2_LOG_LEVEL": "WARNING"}
    variables = {"M2N2_BACKBONE": os.environ.get("M2N2_BACKBONE", "color"), **own, **environment}
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with start_backend(port, None, variables) as program:
        yield base, wait_for_backend(program, base)


def predict(base: str, clicks: Sequence[Click]) -> dict[str, Any]:
    """One interactive request about the sample photograph, as Label Studio sends it."""
    with Image.open(sample_photograph()) as image:
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
        "tasks": [{"id": 1, "data": {"image": f"/data/local-files/?d={sample_photograph().name}"}}],
        "project": "1",
        "label_config": label_config("brush").read_text(),
        "params": {"context": {"result": prompts}},
    }
    answer = httpx.post(f"{base}/predict", json=body, timeout=100, trust_env=False).raise_for_status()
    prediction: dict[str, Any] = answer.json()["results"][0]
    return prediction


def mask_of(prediction: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The brush RLE of a prediction's first region → bool [H, W]."""
    region = prediction["result"][0]
    shape = (region["original_height"], region["original_width"], 4)
    return np.asarray(decode_rle(region["value"]["rle"]).reshape(shape)[..., 3] > 0)


if __name__ == "__main__":
    main()
