"""All sections in one run."""

from __future__ import annotations

import gc
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from m2n2_backend import __version__
from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.backbones.random_models import random_stable_diffusion
from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.commands.bench.options import BenchOptions
from m2n2_backend.commands.bench.parts import measure_parts
from m2n2_backend.commands.bench.plain import PlainEffort, require_scikit_image
from m2n2_backend.commands.bench.service import measure_service
from m2n2_backend.commands.bench.sweep import measure_sweep
from m2n2_backend.commands.bench.switches import measure_switches
from m2n2_backend.commands.bench.tables import show_parts, show_service, show_sweep, show_switches
from m2n2_backend.commands.bench.timing import worker_threads
from m2n2_backend.m2n2.attention import Backbone
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click
from m2n2_backend.settings import Settings

Figures = dict[str, Any]

_ENCODES = 5
_SD2_GRID = {"cpu": 64}
_SD2_GRID_ACCELERATOR = 128


def run_bench(settings: Settings, options: BenchOptions, console: Console) -> Figures:
    """Measure, print a table for each section, and return the same figures.

    Args:
        settings: Backbone, device, threads, hyperparameters; also those of the server that is measured.
        options: What to measure.
        console: Where the tables go.

    Returns:
        The object that :mod:`m2n2_backend.commands.bench` describes.

    Raises:
        SettingsError: scikit-image is needed and missing.
        BackboneUnavailable: The backbone cannot be loaded, or the server did not start.
        NotReady: The server refused a single request.
    """
    if "parts" in options.sections:
        require_scikit_image()
    load = _load()
    with worker_threads(settings) as threads, tempfile.TemporaryDirectory(prefix="m2n2-bench-") as temporary:
        backbone = backbone_loader(settings)()
        figures: Figures = {
            "machine": _machine(backbone.device, threads, load),
            "size": list(options.size),
            "repeats": options.repeats,
        }
        for section in options.sections:
            folder = Path(temporary) / section
            folder.mkdir()
            figures[section] = _measure(section, backbone, settings, options, folder, console)
    return figures


def _measure(
    section: str, backbone: Backbone, settings: Settings, options: BenchOptions, folder: Path, console: Console
) -> Any:
    method = settings.method()
    segmenter = Segmenter(backbone, method)
    console.print(f"measuring {section} …", style="dim")
    match section:
        case "parts":
            return _parts(backbone, settings, options, console)
        case "switches":
            switches = measure_switches(backbone, settings, folder, size=options.size, repeats=options.repeats)
            show_switches(console, switches)
            return switches
        case "service":
            service = measure_service(segmenter, settings, folder, options)
            show_service(console, service)
            return service
        case _:
            _warm_up(segmenter)
            sweep = measure_sweep(backbone, method, options)
            show_sweep(console, sweep)
            return sweep


def _parts(backbone: Backbone, settings: Settings, options: BenchOptions, console: Console) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, each in _backbones(backbone, settings, options):
        random = name == "sd2-random"
        slow = random and each.device.type == "cpu"
        found[name] = measure_parts(
            each,
            settings.method(),
            size=options.size,
            repeats=min(options.repeats, 5) if slow else options.repeats,
            encode_repeats=1 if slow else min(options.repeats, _ENCODES),
            # Dense guidance costs a minute and the same for every backbone of equal grid: once is enough.
            effort=PlainEffort(1, 20, dense=False) if random else PlainEffort(dense=each is backbone),
        )
        show_parts(console, found[name])
        gc.collect()
    return found


def _backbones(backbone: Backbone, settings: Settings, options: BenchOptions) -> Iterator[tuple[str, Backbone]]:
    """Color, the named one, and Stable Diffusion with random weights, each made when its turn comes."""
    if isinstance(backbone, ColorAffinity):
        yield "color", backbone
    else:
        yield "color", ColorAffinity(device=backbone.device)
        yield settings.backbone, backbone
    if options.sd2:
        grid = _SD2_GRID.get(backbone.device.type, _SD2_GRID_ACCELERATOR)
        yield "sd2-random", random_stable_diffusion("sd2", grid=grid, device=backbone.device)


def _warm_up(segmenter: Segmenter) -> None:
    state = segmenter.encode(np.zeros((64, 64, 3), np.uint8))
    segmenter.segment(state, [Click(9, 9), Click(50, 50, positive=False)], Box(4, 4, 40, 40))


def _machine(device: torch.device, threads: int, load: float | None) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": load,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "version": __version__,
    }


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows, and systems that do not tell
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
