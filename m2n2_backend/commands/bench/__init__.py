"""The benchmark: what the model costs in one process. A real server under load is ``tests/load/service.py``."""

from __future__ import annotations

import os
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from m2n2_backend import __version__
from m2n2_backend.backbones.device.cores import usable_cores
from m2n2_backend.backbones.registry import backbone_loader, device_name
from m2n2_backend.commands.bench.model import measure_model
from m2n2_backend.errors import SettingsError
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.settings import Settings


def run_bench(settings: Settings, console: Console, *, size: tuple[int, int], **options: Any) -> dict[str, Any]:
    """Measure, print a table, and return the same figures.

    Args:
        options: What :func:`~m2n2_backend.commands.bench.model.measure_model` takes beside the size.

    Returns:
        ``machine`` (see :func:`describe_machine`), ``size``, and ``model`` (see ``measure_model``).

    Raises:
        SettingsError: scikit-image is needed and missing.
        BackboneUnavailable: The backbone cannot be loaded.
    """
    with model_threads(settings), tempfile.TemporaryDirectory(prefix="m2n2-bench-") as temporary:
        backbone = backbone_loader(settings)()
        measured = measure_model(backbone, settings, Path(temporary), size=size, **options)
        figures = {"machine": describe_machine(backbone), "size": list(size), "model": measured}
    show(console, "model: ms", measured)
    return figures


@contextmanager
def model_threads(settings: Settings) -> Iterator[None]:
    """Let PyTorch have as many threads as a single model process of the server takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parse_size(text: str) -> tuple[int, int]:
    """``854x480`` → width and height.

    Raises:
        SettingsError: Something else, or a side of less than 16 or more than 10,000 pixels.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(16 <= side <= 10_000 for side in sides):
        raise SettingsError(f"--size is WIDTHxHEIGHT in pixels, such as 854x480, each 16 to 10000; got {text!r}")
    return sides


def describe_machine(backbone: Backbone) -> dict[str, Any]:
    """What figures were measured on.

    Returns:
        ``processor``, ``cores``, ``threads``, ``load_before``, ``device``, ``backbone``, ``grid``, ``python``,
        ``torch`` and ``version``.
    """
    device = backbone.device
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": device_name(device),
        "backbone": backbone.description,
        "grid": getattr(backbone, "grid", None),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "version": __version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def show(console: Console, title: str, figures: Mapping[str, Any]) -> None:
    """One row for each innermost object, its numbers side by side."""
    table = Table("", "figures", title=title, title_justify="left")
    for name, leaf in _leaves(figures, ""):
        table.add_row(name, "  ".join(f"{key} {_number(value)}" for key, value in leaf.items()))
    console.print(table)


def _leaves(figures: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    own = {key: value for key, value in figures.items() if not isinstance(value, Mapping)}
    if own:
        yield path, own
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path} {key}".strip())


def _number(value: object) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and value < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
