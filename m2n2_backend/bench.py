"""How long each part takes, and how much longer the straightforward implementation does, in one process."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from m2n2_backend.evaluation import straightforward
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.attention import Backbone, aggregate
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.transition import transition_matrix
from m2n2_backend.m2n2.upsample import joint_bilateral
from m2n2_backend.prompts import Box, Click
from m2n2_backend.resources import sample_photograph

WIDTH, HEIGHT = 640, 480
CANDIDATES = 200
"""Thresholds that the straightforward implementation tries: one mask for each of 65536 would flatter the ratio."""

Figures = dict[str, Any]


def run_bench(
    *,
    backbone: Backbone,
    console: Console,
    repeats: int = 20,
    plain_repeats: int = 2,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Figures:
    """Measure, print a table, and return the same figures.

    Every time is in milliseconds. Each kernel is compiled and run once before anything is timed.

    Args:
        backbone: Its weights are loaded; its device is the one measured.
        console: Where the table goes.
        repeats: Of every measurement; new clicks are as many different pixels.
        plain_repeats: Of the straightforward implementation; the one with dense guidance runs once.
        size: Width and height of the photograph.

    Returns:
        ``backbone``, ``device``, ``threads``, ``width``, ``height``, ``grid`` ([h, w]), ``repeats``,
        ``encode`` (``features``, ``aggregate``, ``transition``, ``upsample_table``, ``total``),
        ``first_click``, ``new_click``, ``repeated_click``, ``box``, each {``median``, ``p95``};
        ``straightforward``: ``encode``, ``click`` (guidance as sparse as ours), ``click_dense`` (every pixel, as the
        paper has it), ``candidates``; ``ratio``: ``encode``, ``click``, ``click_dense``; ``peak_memory_mb``, of the
        process before the straightforward implementation began, None where the system does not tell.
    """
    rgb = photograph(*size)
    segmenter = Segmenter(backbone)
    state = segmenter.encode(rgb)
    segmenter.segment(state, [_center(size)])
    segmenter.segment(state, [], _middle(size))
    console.print("Warmed up: kernels compiled, model run once. Times are in milliseconds.")
    figures: Figures = {
        "backbone": backbone.description,
        "device": str(backbone.device),
        "threads": torch.get_num_threads(),
        "width": size[0],
        "height": size[1],
        "grid": list(state.grid),
        "repeats": repeats,
        "encode": _encode_times(segmenter, rgb, max(1, min(repeats, 5))),
        **_click_times(segmenter, rgb, size, repeats),
        "peak_memory_mb": _peak_memory_mb(),
    }
    figures["straightforward"] = _plain_times(backbone, rgb, size, plain_repeats, segmenter.method.samples)
    figures["ratio"] = _ratios(figures)
    console.print(_table(figures))
    return figures


def photograph(width: int, height: int) -> NDArray[np.uint8]:
    """The package's sample photograph, cut to the shape and resized, uint8 [height, width, 3]."""
    rgb = decode_image(sample_photograph().read_bytes(), max_pixels=10**8)
    scale = min(rgb.shape[0] / height, rgb.shape[1] / width)
    cut = rgb[: max(1, round(height * scale)), : max(1, round(width * scale))]
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _center(size: tuple[int, int]) -> Click:
    return Click(size[0] // 2, size[1] // 2)


def _middle(size: tuple[int, int]) -> Box:
    return Box(size[0] // 4, size[1] // 4, max(size[0] * 3 // 4, 1), max(size[1] * 3 // 4, 1))


def _new_clicks(size: tuple[int, int], count: int) -> list[Click]:
    """Different pixels all over the photograph, every third one background; always the same."""
    flat = np.random.default_rng(0).choice(size[0] * size[1], count, replace=False)
    return [Click(int(at) % size[0], int(at) // size[0], i % 3 != 2) for i, at in enumerate(flat)]


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    """Milliseconds, with everything that was queued on the device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3


def _summary(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "p95": float(np.percentile(times, 95))}


def _encode_times(segmenter: Segmenter, rgb: NDArray[np.uint8], repeats: int) -> dict[str, float]:
    """Median of the whole, and of each part run by itself in the order of ``Segmenter.encode``."""
    rounds = [_encode_round(segmenter, rgb) for _ in range(repeats)]
    return {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}


@torch.inference_mode()
def _encode_round(segmenter: Segmenter, rgb: NDArray[np.uint8]) -> dict[str, float]:
    backbone, method, device = segmenter.backbone, segmenter.method, segmenter.backbone.device
    features = backbone.features(rgb)
    attention = aggregate(features, device)
    sweep = partial(
        transition_matrix,
        temperature=method.temperature,
        tolerance=method.tolerance,
        max_sweeps=method.max_sweeps,
        doublings=method.doublings,
    )
    table = partial(joint_bilateral, radius=method.radius, samples=method.samples)
    return {
        "features": _timed(device, partial(backbone.features, rgb)),
        "aggregate": _timed(device, partial(aggregate, features, device)),
        "transition": _timed(device, partial(sweep, attention)),
        "upsample_table": _timed(device, partial(table, rgb, features.height, features.width)),
        "total": _timed(device, partial(segmenter.encode, rgb)),
    }


def _click_times(
    segmenter: Segmenter, rgb: NDArray[np.uint8], size: tuple[int, int], repeats: int
) -> dict[str, dict[str, float]]:
    timed = partial(_timed, segmenter.backbone.device)
    first, times = _center(size), defaultdict[str, list[float]](list)
    for _ in range(3):
        state = segmenter.encode(rgb)
        times["first_click"].append(timed(partial(segmenter.segment, state, [first])))
    for click in _new_clicks(size, repeats):
        for name in ("new_click", "repeated_click"):
            times[name].append(timed(partial(segmenter.segment, state, [first, click])))
        times["box"].append(timed(partial(segmenter.segment, state, [], _middle(size))))
    return {name: _summary(values) for name, values in times.items()}


def _plain_times(
    backbone: Backbone, rgb: NDArray[np.uint8], size: tuple[int, int], repeats: int, samples: int
) -> Figures:
    """The straightforward implementation on the CPU in 32-bit; its features are the backbone's, untimed."""
    timed = partial(_timed, torch.device("cpu"))
    encode = partial(straightforward.encode, rgb, backbone.features(rgb), dtype=np.float32)
    segment = partial(straightforward.segment, encode(), candidates=CANDIDATES)
    clicks = [Click(click.x, click.y) for click in _new_clicks(size, repeats)]
    return {
        "encode": statistics.median(timed(encode) for _ in range(repeats)),
        "click": statistics.median(timed(partial(segment, [click], samples=samples)) for click in clicks),
        "click_dense": timed(partial(segment, clicks[:1], samples=0)),
        "candidates": CANDIDATES,
    }


def _ratios(figures: Figures) -> dict[str, float]:
    """Straightforward over ours; for the encode without the model, which both share."""
    plain, new_click = figures["straightforward"], figures["new_click"]["median"]
    matrix = figures["encode"]["aggregate"] + figures["encode"]["transition"]
    return {
        "encode": plain["encode"] / matrix,
        "click": plain["click"] / new_click,
        "click_dense": plain["click_dense"] / new_click,
    }


def _peak_memory_mb() -> float | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def _table(figures: Figures) -> Table:
    title = "{backbone}, {device}, {threads} threads, {width}x{height}".format_map(figures)
    table = Table("", "median", "p95", "straightforward", "ratio", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    plain, ratio = figures["straightforward"], figures["ratio"]
    for name, value in figures["encode"].items():
        table.add_row(f"encode: {name.replace('_', ' ')}", f"{value:.1f}")
    table.add_row("encode: matrix", "", "", f"{plain['encode']:.0f}", f"{ratio['encode']:.0f}")
    for name in ("first_click", "new_click", "repeated_click", "box"):
        cells = [f"{figures[name][key]:.1f}" for key in ("median", "p95")]
        more = [f"{plain['click']:.0f}", f"{ratio['click']:.0f}"] if name == "new_click" else []
        table.add_row(name.replace("_", " "), *cells, *more)
    table.add_row("new click, dense guidance", "", "", f"{plain['click_dense']:.0f}", f"{ratio['click_dense']:.0f}")
    peak = figures["peak_memory_mb"]
    table.caption = f"straightforward: {plain['candidates']} candidate thresholds, 32-bit, on the CPU; " + (
        f"peak memory {peak:.0f} MB" if peak is not None else "peak memory unknown"
    )
    return table
