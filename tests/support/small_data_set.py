"""Writes a data set of six small photographs, and evaluates it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from fake_backbone import FakeBackbone, scene
from PIL import Image
from rich.console import Console

from m2n2_backend.evaluation.run import EvaluationOptions, evaluate

SAMPLES = 6


def write_data(root: Path) -> Path:
    """Write a data set of kind ``folder``: the same scene at different sizes, whose left shape is the object."""
    for index in range(SAMPLES):
        height, width = 48 + 4 * index, 66 + 4 * index
        rgb = scene(height, width)
        label = np.where(rgb[..., 0] > 120, 255, 0).astype(np.uint8)
        label[:, width // 2 :] = 0
        for folder, pixels in (("images", rgb), ("masks", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{index:02d}.png")
    return root


def options_for(data: Path, **changes: Any) -> EvaluationOptions:
    return replace(EvaluationOptions("folder", data, data.parent / "out" / "result.json"), **changes)


def quietly(options: EvaluationOptions, load: Callable[[], Any] = FakeBackbone) -> dict[str, Any]:
    return evaluate(options, load, console=Console(file=io.StringIO()))


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: on images this small, threads wait for each other longer than they compute."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
