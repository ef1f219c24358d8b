"""``python -m m2n2_backend.commands.demo DIR``: a real server, three real clicks, a picture of the answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image
from rich.console import Console
from rich.table import Table

from m2n2_backend.overlay import draw_overlay
from m2n2_backend.prompts import Click
from m2n2_backend.resources import label_config, sample_photograph

CLICKS = (Click(228, 276), Click(228, 205), Click(60, 60, positive=False))
"""On the sample photograph: the collar's ring, which is enough for head and collar, neck, and the flag behind."""

_LOAD_SECONDS = 300


def main() -> None:
    """Run the demonstration; the folder for the pictures is the first argument, ``out`` by default."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
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
        RuntimeError: It ended, or did not become ready.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"M2N2_LOCAL_FILES_ROOT": str(sample_photograph().parent), "M2N2_LOG_LEVEL": "WARNING"}
    variables = {"M2N2_BACKBONE": "color", **os.environ, **own, **environment}
    command = [sys.executable, "-m", "m2n2_backend", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=variables)
    try:
        base = f"http://127.0.0.1:{port}"
        yield base, _ready(process, base)
    finally:
        process.terminate()
        process.wait(30)


def predict(base: str, clicks: Sequence[Click]) -> dict[str, Any]:
    """One interactive request about the sample photograph, as Label Studio sends it."""
    with Image.open(sample_photograph()) as image:
        width, height = image.size
    prompts = [
        {
            "id": f"click{index}",
            "type": "keypointlabels",
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
                "keypointlabels": ["Person"],
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
    answer: dict[str, Any] = _call(f"{base}/predict", body)["results"][0]
    return answer


def mask_of(prediction: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The brush RLE of a prediction's first region → bool [H, W]."""
    region = prediction["result"][0]
    shape = (region["original_height"], region["original_width"], 4)
    return np.asarray(decode_rle(region["value"]["rle"]).reshape(shape)[..., 3] > 0)


def _ready(process: subprocess.Popen[bytes], base: str) -> dict[str, Any]:
    deadline = time.monotonic() + _LOAD_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}; its reason stands above")
        try:
            health: dict[str, Any] = _call(f"{base}/health")
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"the server cannot answer: {error.code} {error.reason}") from error
        except OSError:
            health = {}  # not listening yet
        if health.get("state") == "ready":
            return health
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready within {_LOAD_SECONDS} s")


def _call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=100) as response:
        return json.load(response)


if __name__ == "__main__":
    main()
