"""What refining adds to a click beside the paper's answer, in one run, and what its parts take."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from m2n2_backend.commands.bench.timing import summary, timed
from m2n2_backend.m2n2.places import Placed
from m2n2_backend.m2n2.prompt_maps import working_pixel
from m2n2_backend.m2n2.refine.band import open_band
from m2n2_backend.m2n2.refine.click_radius import click_radius
from m2n2_backend.m2n2.refine.object_cut import cut_object
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.prompts import Click, Prompts


def measure_refining(segmenter: Segmenter, encoded: EncodedImage, clicks: Sequence[Click]) -> dict[str, Any]:
    """Refined clicks and the paper's in turn, so that noise of the machine meets both.

    Args:
        segmenter: Its method refines.
        clicks: The first one, positive, and those that follow it one at a time.

    Returns:
        ``new_click``, ``paper_new_click``, ``repeated_click`` and ``paper_repeated_click`` (median and p95), and
        ``parts``: medians of ``radius``, ``object`` (the cut of the whole object, after foreground clicks alone),
        ``band`` (colors and graph) and ``cut``, both for the mask's whole edge, of which a click settles the part
        that it changed.
    """
    first, *following = clicks
    device, method, table = segmenter.backbone.device, segmenter.method, segmenter.joint_bilateral(encoded)
    paper = Segmenter(segmenter.backbone, replace(method, refine=False))
    state, other = segmenter.prepare(encoded, table), paper.prepare(encoded, table)
    segmenter.segment(state, [first])
    paper.segment(other, [first])
    times = defaultdict[str, list[float]](list)
    cell = math.sqrt(math.prod(state.working_size) / math.prod(state.grid))
    before = segmenter.refined_step(state, Prompts((first,))).settled.unpacked()
    for click in following:
        both = [first, click]
        for name in ("new_click", "repeated_click"):
            times[name].append(timed(device, partial(segmenter.segment, state, both)))
            times[f"paper_{name}"].append(timed(device, partial(paper.segment, other, both)))
        if click.positive and state.copy:
            distance = paper.segment(other, both).distance
            placed = [Placed(working_pixel(state, each), True) for each in both]
            times["object"].append(timed(device, partial(cut_object, state.copy, distance, placed)))
        rough = segmenter.refined_step(state, Prompts(tuple(both))).rough.unpacked()
        times["radius"].append(
            timed(device, partial(click_radius, before, working_pixel(state, click), click.positive))
        )
        fixed = np.zeros(rough.shape, np.int8)
        settle = partial(open_band, state.guide, rough, fixed, cell=cell, width=segmenter.band)
        times["band"].append(timed(device, settle))
        mask, band = settle()
        if band is not None:
            times["cut"].append(timed(device, partial(band.cut, mask)))
    parts = {name: statistics.median(times.pop(name, [0.0])) for name in ("radius", "object", "band", "cut")}
    return {name: summary(each) for name, each in times.items()} | {"parts": parts}
