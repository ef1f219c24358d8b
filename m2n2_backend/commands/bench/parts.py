"""One backbone: every part of an encode and every kind of click, beside the straightforward implementation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from m2n2_backend.commands.bench.encode_steps import encode_times
from m2n2_backend.commands.bench.photographs import center, jpeg, middle, new_clicks, photograph
from m2n2_backend.commands.bench.plain import PlainEffort, plain_times, ratios
from m2n2_backend.commands.bench.timing import PeakMemory, summary, timed
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.attention import Backbone
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.relations import MarkovRelation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import EncodedImage, ImageState

_FIRST_CLICKS = 5
_CHAINS = 3  # whose maps in blocks are compared with those step by step


def measure_parts(
    backbone: Backbone,
    method: Method,
    *,
    size: tuple[int, int],
    repeats: int,
    encode_repeats: int,
    effort: PlainEffort,
) -> dict[str, Any]:
    """Measure one backbone. Every kernel is compiled and run once before anything is timed.

    Args:
        backbone: Loaded; its device is the one measured.
        method: As the server runs it.
        size: Width and height of the photograph.
        repeats: Of clicks and boxes.
        encode_repeats: Of the encode; each runs the model twice.
        effort: Of the straightforward implementation.

    Returns:
        One entry of ``parts``; see :mod:`m2n2_backend.commands.bench`.
    """
    data = jpeg(photograph(*size))
    rgb = decode_image(data, max_pixels=10**9)
    segmenter = Segmenter(backbone, method)
    peak = PeakMemory(backbone.device)
    encoded = segmenter.extract(rgb)
    state = segmenter.prepare(encoded)
    segmenter.segment(state, [center(size)], middle(size))
    figures: dict[str, Any] = {
        "backbone": backbone.description,
        "device": _device_name(backbone.device),
        "width": size[0],
        "height": size[1],
        "grid": list(state.grid),
        "doublings": _doublings(state),
        "repeats": repeats,
        "encode": encode_times(segmenter, data, encoded, encode_repeats),
        **_click_times(segmenter, encoded, size, repeats),
        "peak_memory": peak.figures(),
        "blocks_deviation": blocks_deviation(state),
    }
    matrix = _markov(state).transition.powers[0]
    figures["straightforward"] = plain_times(rgb, encoded.features, matrix, method.samples, effort)
    figures["ratio"] = ratios(figures, figures["straightforward"])
    return figures


@torch.inference_mode()
def blocks_deviation(state: ImageState) -> float | None:
    """Largest deviation of a map by powers of P from the map step by step, both in 32-bit, over the map's maximum.

    None where the chain is not run in blocks.
    """
    relation = _markov(state)
    powers = relation.transition.powers
    if len(powers) == 1:
        return None
    cells = state.grid[0] * state.grid[1]
    starts = torch.zeros(_CHAINS, cells, device=state.device)
    starts[range(_CHAINS), [cells * (2 * chain + 1) // (2 * _CHAINS) for chain in range(_CHAINS)]] = 1.0
    plain = replace(relation, transition=replace(relation.transition, powers=powers[:1]))
    blocks, steps = relation.maps(starts), plain.maps(starts)
    return float(((blocks - steps).abs().amax(dim=1) / steps.amax(dim=1)).max())


def _click_times(
    segmenter: Segmenter, encoded: EncodedImage, size: tuple[int, int], repeats: int
) -> dict[str, dict[str, float]]:
    """A new click comes second, after one whose map is there; a repeated one has nothing new."""
    clock = partial(timed, segmenter.backbone.device)
    first, times = center(size), defaultdict[str, list[float]](list)
    table = segmenter.joint_bilateral(encoded)
    for _ in range(min(repeats, _FIRST_CLICKS)):
        state = segmenter.prepare(encoded, table)
        times["first_click"].append(clock(partial(segmenter.segment, state, [first])))
    for click in new_clicks(size, repeats):
        for name in ("new_click", "repeated_click"):
            times[name].append(clock(partial(segmenter.segment, state, [first, click])))
        times["box"].append(clock(partial(segmenter.segment, state, [], middle(size))))
    return {name: summary(values) for name, values in times.items()}


def _markov(state: ImageState) -> MarkovRelation:
    assert isinstance(state.relation, MarkovRelation), "the method as the server runs it"
    return state.relation


def _doublings(state: ImageState) -> int:
    return len(_markov(state).transition.powers) - 1


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
