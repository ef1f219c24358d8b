"""What an encode and a click cost in one process, beside the plain reference in the same run."""

from __future__ import annotations

import importlib.util
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_pre_hook

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.backbones.device.memory import CPU_GRID, GRIDS
from m2n2_backend.backbones.random_models import random_stable_diffusion
from m2n2_backend.commands.bench.photographs import Size, center, jpeg, middle, new_clicks, photograph
from m2n2_backend.commands.bench.refining import measure_refining
from m2n2_backend.commands.bench.tiers import measure_tiers
from m2n2_backend.commands.bench.timing import settle, summary, timed
from m2n2_backend.errors import SettingsError
from m2n2_backend.evaluation import reference
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.paper.attention import Backbone, aggregate
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.semantic_distance import semantic_distance_of
from m2n2_backend.m2n2.state import EncodedImage, ImageState
from m2n2_backend.prompts import Click
from m2n2_backend.settings import Settings

SWEPT_GRIDS = (32, 40, 48, 64, 96, 128)
PHOTOGRAPHS: tuple[Size, ...] = ((640, 480), (1920, 1080), (4000, 3000))

_REFERENCE_CELLS = 4096  # above, the reference is given our matrix: its own would take minutes
_REFERENCE_CLICKS = 2
_CANDIDATES = 200  # thresholds the reference tries: one mask for each of 65536 would flatter the ratio
_ENCODES = 5
_LONG_SECONDS = 5.0  # no further encode of a size after so long
_MODEL_PARTS = {"Encoder": "vae", "UNet2DConditionModel": "unet"}  # diffusers' names of the two that run
_CPU = torch.device("cpu")


def measure_model(
    backbone: Backbone,
    settings: Settings,
    folder: Path,
    *,
    size: Size,
    repeats: int,
    max_grid: int | None = None,
    sd2: bool = False,
    dense: bool = False,
    photographs: Sequence[Size] = PHOTOGRAPHS,
) -> dict[str, Any]:
    """Measure in this process.

    Args:
        backbone: Loaded; its device is the one measured.
        folder: For a disk cache.
        size: Width and height of the photograph that most is measured on.
        max_grid: Largest grid measured; None is 64 on a CPU and 128 on an accelerator.
        sd2: Also the topology of Stable Diffusion 2 at full size, with random weights: at grids 64, 96 and 128 as
            far as ``max_grid`` allows, or at that one where it is smaller.
        dense: Also one click of the reference that reads every guidance pixel.
        photographs: Sizes whose cost is measured.

    Returns:
        ``backbones`` (by name), ``tiers``, ``grids`` (of color affinity) and ``photographs`` (by size, of
        ``backbone``). Times are medians in milliseconds unless a key says p95.

    Raises:
        SettingsError: scikit-image, which the reference needs, is missing.
    """
    if importlib.util.find_spec("skimage") is None:
        raise SettingsError("the plain reference needs scikit-image: pip install '.[eval]' in a checkout")
    method = settings.method()
    measured = {}
    most = max_grid or (CPU_GRID if backbone.device.type == "cpu" else max(GRIDS))
    for name, each in _backbones(backbone, settings, most if sd2 else None):
        measured[name] = measure_backbone(Segmenter(each, method), size, repeats, dense=dense)
    grids = [grid for grid in SWEPT_GRIDS if grid <= most]
    colors = {grid: Segmenter(ColorAffinity(grid=grid, device=backbone.device), method) for grid in grids}
    own = Segmenter(backbone, method)
    return {
        "backbones": measured,
        "tiers": measure_tiers(backbone, settings, folder, size, repeats),
        "grids": {str(grid): measure_size(segmenter, size) for grid, segmenter in colors.items()},
        "photographs": {f"{w}x{h}": measure_size(own, (w, h)) for w, h in photographs},
    }


def measure_backbone(segmenter: Segmenter, size: Size, repeats: int, *, dense: bool) -> dict[str, Any]:
    """Steps of an encode, kinds of clicks, and the reference's time for the same.

    Args:
        segmenter: Its backbone's device is the one measured; the reference always runs on the CPU in 32-bit.
        dense: Also one click of the reference that reads every guidance pixel.

    Returns:
        ``encode`` (each step, ``total`` and ``model``, the parts of ``features``), ``clicks`` (median and p95 of each
        kind), ``reference``, ``ratio`` (reference over ours), ``memory_mb``: what is kept of an image (``state``),
        and the peak of one image's encode, click and box (``device``, on CUDA) or of the process since its start;
        where the method refines, ``refining`` (``measure_refining``).
    """
    data = jpeg(photograph(size))
    rgb = _decode(data)
    encoded, memory = _first_image(segmenter, rgb, size)
    steps = [_encode_steps(segmenter, data, encoded) for _ in range(min(repeats, _ENCODES))]
    encode: dict[str, Any] = {name: statistics.median(each[name] for each in steps) for name in steps[0]}
    models = [_model_parts(segmenter.backbone, rgb) for _ in steps]
    encode["model"] = {name: statistics.median(each[name] for each in models) for name in models[0]}
    plain, fit = _plain_state(rgb, encoded, segmenter)
    kinds = _click_kinds(segmenter, encoded, size, repeats, plain)
    clicks = {name: summary(times) for name, times in kinds.items()}
    plain_times = {**fit, "click": clicks.pop("reference")["median"]}
    if dense:
        plain_times["click_dense"] = timed(_CPU, partial(_plain_click, plain, center(size), 0))
    pairs = {name: (fit[name], encode[name]) for name in fit}
    pairs |= {name: (plain_times["click"], own["median"]) for name, own in clicks.items() if name != "box"}
    refining = {}
    if segmenter.method.refine:
        refining = {"refining": measure_refining(segmenter, encoded, [center(size), *new_clicks(size, repeats)])}
    return {
        "backbone": segmenter.backbone.description,
        "grid": [encoded.features.height, encoded.features.width],
        "encode": encode,
        "clicks": clicks,
        "reference": {**plain_times, "candidates": _CANDIDATES},
        "ratio": {name: theirs / ours for name, (theirs, ours) in pairs.items()},
        "memory_mb": memory,
        **refining,
    }


def measure_size(segmenter: Segmenter, size: Size) -> dict[str, float]:
    """Encode, new click (ms) and memory of an image's state (MB) at one size of grid and photograph."""
    rgb, clock = photograph(size), partial(timed, segmenter.backbone.device)
    states: list[ImageState] = []
    encodes: list[float] = []
    while len(encodes) < 3 and sum(encodes) < _LONG_SECONDS * 1e3:
        states.clear()  # a large matrix leaves no room for a second one
        encodes.append(clock(lambda: states.append(segmenter.encode(rgb))))
    segmenter.segment(states[0], [center(size)])
    pairs = [[center(size), click] for click in new_clicks(size, 5)]
    clicks = [clock(partial(segmenter.segment, states[0], pair)) for pair in pairs]
    return {
        "encode": statistics.median(encodes),
        "new_click": statistics.median(clicks),
        "state_mb": states[0].nbytes / 2**20,
    }


def _decode(data: bytes) -> NDArray[np.uint8]:
    return decode_image(data, max_pixels=10**9)


def _backbones(backbone: Backbone, settings: Settings, most_sd2: int | None) -> Iterator[tuple[str, Backbone]]:
    """Color, the wanted one, and Stable Diffusion 2 with random weights, each made when its turn comes."""
    if not isinstance(backbone, ColorAffinity):
        yield "color", ColorAffinity(device=backbone.device)
    yield "color" if isinstance(backbone, ColorAffinity) else settings.backbone, backbone
    if most_sd2:
        for grid in [grid for grid in reversed(GRIDS) if grid <= most_sd2] or [most_sd2]:
            yield f"sd2-random-{grid}", random_stable_diffusion("sd2", grid=grid, device=backbone.device)


def _first_image(segmenter: Segmenter, rgb: NDArray[np.uint8], size: Size) -> tuple[EncodedImage, dict[str, Any]]:
    """What the model says of an image, and the memory it took; kernels are compiled here."""
    device = segmenter.backbone.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    encoded = segmenter.extract(rgb)
    state = segmenter.prepare(encoded)
    segmenter.segment(state, [center(size)], middle(size))
    return encoded, {"state": state.nbytes / 2**20, **_peak_mb(device)}


@torch.inference_mode()
def _encode_steps(segmenter: Segmenter, data: bytes, encoded: EncodedImage) -> dict[str, float]:
    device, rgb = segmenter.backbone.device, _decode(data)
    made: list[torch.Tensor] = []
    return {
        "decode": timed(device, partial(_decode, data)),
        "features": timed(device, partial(segmenter.backbone.features, rgb)),
        "aggregate": timed(device, lambda: made.append(aggregate(encoded.features, device))),
        "transition": timed(device, lambda: semantic_distance_of(made.pop(), segmenter.method)),
        "upsample_table": timed(device, partial(segmenter.joint_bilateral, encoded)),
        "total": timed(device, lambda: segmenter.encode(_decode(data))),
    }


def _model_parts(backbone: Backbone, rgb: NDArray[np.uint8]) -> dict[str, float]:
    """``features`` split at the first call of each part (vae, unet; forward of a ViT); empty where there is none."""
    with _first_calls(backbone.device) as calls:
        start = time.perf_counter()
        backbone.features(rgb)
        settle(backbone.device)
        times = [start, *calls.values(), time.perf_counter()]
    names = ["input", *calls] if calls else []
    return {name: (times[i + 1] - times[i]) * 1e3 for i, name in enumerate(names)}


@contextmanager
def _first_calls(device: torch.device) -> Iterator[dict[str, float]]:
    calls: dict[str, float] = {}

    def note(module: torch.nn.Module, _inputs: object) -> None:
        name = _MODEL_PARTS.get(type(module).__name__, "" if calls else "forward")
        if name and name not in calls:
            settle(device)
            calls[name] = time.perf_counter()

    handle = register_module_forward_pre_hook(note)
    try:
        yield calls
    finally:
        handle.remove()


def _plain_state(
    rgb: NDArray[np.uint8], encoded: EncodedImage, segmenter: Segmenter
) -> tuple[reference.PlainState, dict[str, float]]:
    """The reference's matrix and what its steps took; ours, and no times, where its own would take minutes."""
    features = encoded.features
    grid = (features.height, features.width)
    if features.cells > _REFERENCE_CELLS:
        relation: Any = segmenter.prepare(encoded).relation
        return reference.PlainState(rgb, grid, relation.transition.matrix.float().cpu().numpy()), {}
    kept: list[Any] = []
    aggregated = timed(_CPU, lambda: kept.append(reference.attention_matrix(features, np.float32)))
    sharpen = partial(reference.sharpen, kept[0], reference.TEMPERATURE)
    fitted = timed(_CPU, lambda: kept.append(reference.sinkhorn(sharpen(), tolerance=1e-4, max_sweeps=2000)))
    return reference.PlainState(rgb, grid, kept[1]), {"aggregate": aggregated, "transition": fitted}


def _click_kinds(
    segmenter: Segmenter, encoded: EncodedImage, size: Size, repeats: int, plain: reference.PlainState
) -> dict[str, list[float]]:
    """Times by kind; the reference's clicks stand between ours, so that noise of the machine meets both."""
    clock, times = partial(timed, segmenter.backbone.device), defaultdict[str, list[float]](list)
    table, first = segmenter.joint_bilateral(encoded), center(size)
    state = segmenter.prepare(encoded, table)
    segmenter.segment(state, [first])
    for number, click in enumerate(new_clicks(size, repeats)):
        if number < _ENCODES:
            fresh = segmenter.prepare(encoded, table)
            times["first_click"].append(clock(partial(segmenter.segment, fresh, [first])))
        for name in ("new_click", "repeated_click"):
            times[name].append(clock(partial(segmenter.segment, state, [first, click])))
        times["box"].append(clock(partial(segmenter.segment, state, [], middle(size))))
        if number < _REFERENCE_CLICKS:
            samples = segmenter.method.samples  # guidance as sparse as ours
            times["reference"].append(timed(_CPU, partial(_plain_click, plain, Click(click.x, click.y), samples)))
    return times


def _plain_click(plain: reference.PlainState, click: Click, samples: int) -> object:
    return reference.segment(plain, [click], samples=samples, candidates=_CANDIDATES)


def _peak_mb(device: torch.device) -> dict[str, float | None]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        "process": peak,
        "device": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
    }
