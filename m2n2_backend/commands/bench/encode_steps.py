"""Where the time of an encode goes, step by step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_pre_hook

from m2n2_backend.commands.bench.timing import settle, timed
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.attention import Backbone, aggregate
from m2n2_backend.m2n2.relations import relation_of
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import EncodedImage

_MAX_PIXELS = 10**9
_STEPS = {"Encoder": "vae", "UNet2DConditionModel": "unet"}  # diffusers' names of the two parts that run


def encode_times(segmenter: Segmenter, data: bytes, encoded: EncodedImage, repeats: int) -> dict[str, Any]:
    """Median milliseconds of every step by itself, in their order, and of the whole.

    Args:
        segmenter: Its backbone has been run before; it is run twice for each repeat.
        data: The photograph's file.
        encoded: What the backbone said of it.
        repeats: At least 1.
    """
    rounds = [_round(segmenter, data, encoded) for _ in range(repeats)]
    steps = [_model_steps(segmenter.backbone, _decode(data)) for _ in range(repeats)]
    result: dict[str, Any] = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    result["features"] = statistics.median(sum(times.values()) for times in steps)
    result["model"] = {name: statistics.median(times[name] for times in steps) for name in steps[0]}
    return result


def _decode(data: bytes) -> NDArray[np.uint8]:
    return decode_image(data, max_pixels=_MAX_PIXELS)


@torch.inference_mode()
def _round(segmenter: Segmenter, data: bytes, encoded: EncodedImage) -> dict[str, float]:
    method, device = segmenter.method, segmenter.backbone.device
    attention = aggregate(encoded.features, device)
    return {
        "decode": timed(device, partial(_decode, data)),
        "aggregate": timed(device, partial(aggregate, encoded.features, device)),
        "transition": timed(device, partial(relation_of, attention, method)),
        "upsample_table": timed(device, partial(segmenter.joint_bilateral, encoded)),
        "total": timed(device, lambda: segmenter.encode(_decode(data))),
    }


def _model_steps(backbone: Backbone, rgb: NDArray[np.uint8]) -> dict[str, float]:
    """``features`` split by the parts of the model, each with what follows it up to the next one."""
    with _first_calls(backbone.device) as calls:
        start = time.perf_counter()
        backbone.features(rgb)
        settle(backbone.device)
        end = time.perf_counter()
    if not calls:
        return {"features": (end - start) * 1e3}
    times = [start, *calls.values(), end]
    names = ["input", *calls]
    return {name: (after - before) * 1e3 for name, before, after in zip(names, times[:-1], times[1:], strict=True)}


@contextmanager
def _first_calls(device: torch.device) -> Iterator[dict[str, float]]:
    """When each part of a model was first called within the body, in that order: vae and unet, or forward."""
    calls: dict[str, float] = {}

    def note(module: torch.nn.Module, _inputs: object) -> None:
        name = _STEPS.get(type(module).__name__, "" if calls else "forward")
        if name and name not in calls:
            settle(device)
            calls[name] = time.perf_counter()

    handle = register_module_forward_pre_hook(note)
    try:
        yield calls
    finally:
        handle.remove()
