"""The first click on an image, by where its features are found."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from m2n2_backend.commands.bench.photographs import Size, center, jpeg, new_clicks, photograph
from m2n2_backend.commands.bench.timing import summary, timed
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import Settings
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.replica.engine import Engine

_SWITCHES = 5  # their tables fit the memory tier


def measure_tiers(backbone: Backbone, settings: Settings, folder: Path, size: Size, repeats: int) -> dict[str, Any]:
    """The first click on an image that is new, only on disk, in memory, or ready on the device.

    Returns:
        By tier: median, p95, and the medians of the ``parts`` that ran (encode, prepare, segment).
    """
    files = [jpeg(photograph(size, number)) for number in range(max(2, min(repeats, _SWITCHES)))]
    images = [SourceImage.of(data, size) for data in files]
    known = [image.without_data() for image in images]
    # Only the newest state stays on the device, so each of the others has lost its own when its turn comes.
    limits = {"cache_dir": folder, "device_cache": 0, "memory_cache": 4 * 1024**3}
    limited = settings.model_copy(update=limits)
    engine = Engine(backbone, limited)
    engine.warm_up()
    first, others = [center(size)] * len(images), new_clicks(size, len(images))
    positive = [Click(each.x, each.y) for each in others]
    found = {"new": _first_clicks(engine, images, first), "memory": _first_clicks(engine, known, first)}
    found["device"] = _first_clicks(engine, [known[-1]] * len(images), positive)
    found["disk"] = _first_clicks(Engine(backbone, limited), known, first)
    return found


def _first_clicks(engine: Engine, images: Sequence[SourceImage], clicks: Sequence[Click]) -> dict[str, Any]:
    times, parts = [], list[dict[str, float]]()
    for image, click in zip(images, clicks, strict=True):
        run = partial(engine.segment, image, Prompts((click,)))
        times.append(timed(engine.backbone.device, lambda run=run: parts.append(run()[1])))  # type: ignore[misc]
    names = dict.fromkeys(name for part in parts for name in part)
    return {**summary(times), "parts": {n: statistics.median(part.get(n, 0.0) for part in parts) for n in names}}
