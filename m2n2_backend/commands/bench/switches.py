"""The first click on an image, by the cache tier that has it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from m2n2_backend.commands.bench.photographs import center, jpeg, new_clicks, photograph
from m2n2_backend.commands.bench.timing import summary, timed
from m2n2_backend.m2n2.attention import Backbone
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import Settings
from m2n2_backend.worker.engine import Engine
from m2n2_backend.worker.pool import SourceImage

IMAGES = 5
"""Most images that are switched between; their tables fit the memory tier's default."""

Clicks = Callable[[int], Click]


def measure_switches(
    backbone: Backbone, settings: Settings, folder: Path, *, size: tuple[int, int], repeats: int
) -> dict[str, Any]:
    """Measure the four ways.

    Args:
        backbone: Loaded; its kernels have been compiled.
        settings: Of the server; its cache folder and limits of the tiers are replaced.
        folder: Empty, for the disk cache.
        size: Width and height of the images.
        repeats: At least 1; at most ``IMAGES`` images are switched between, at least two.

    Returns:
        ``switches``; see :mod:`m2n2_backend.commands.bench`.
    """
    images = [_source(size, number) for number in range(max(2, min(repeats, IMAGES)))]
    one_state = settings.model_copy(update={"cache_dir": folder, "device_cache": 0, "memory_cache": 4 * 1024**3})
    engine = Engine(backbone, one_state)
    engine.warm_up()
    in_center = partial(_always, center(size))
    clicks = new_clicks(size, len(images))
    known = [SourceImage(image.key, None, image.size) for image in images]
    result = {"new": _first_clicks(engine, images, in_center)}
    # Only the newest state stays on the device, so each of these has lost its own when its turn comes.
    result["memory"] = _first_clicks(engine, known, in_center)
    newest = [known[-1]] * len(images)
    result["device"] = _first_clicks(engine, newest, lambda index: Click(clicks[index].x, clicks[index].y))
    fresh = Engine(backbone, one_state)
    result["disk"] = _first_clicks(fresh, known, in_center)
    return {"images": len(images), **{name: result[name] for name in ("new", "disk", "memory", "device")}}


def _first_clicks(engine: Engine, images: Sequence[SourceImage], click_of: Clicks) -> dict[str, Any]:
    """Median and p95 of one click on each image, and the medians of the parts that ran."""
    times: list[float] = []
    parts: list[dict[str, float]] = []
    for index, image in enumerate(images):
        prompts = Prompts((click_of(index),))
        run = partial(engine.segment, image, prompts)
        times.append(timed(engine.backbone.device, lambda run=run: parts.append(run()[1])))  # type: ignore[misc]
    names = ("encode", "prepare", "segment")
    return {**summary(times), "parts": {name: median(part.get(name, 0.0) for part in parts) for name in names}}


def _always(click: Click, _index: int) -> Click:
    return click


def _source(size: tuple[int, int], number: int) -> SourceImage:
    data = jpeg(photograph(*size, number))
    return SourceImage(hashlib.sha256(data).hexdigest(), data, size)
