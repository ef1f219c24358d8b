"""Writes the page of one evaluation: HTML with PNGs beside it, without anything from the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.evaluation.clicker import OBJECT
from m2n2_backend.evaluation.data.datasets import Sample
from m2n2_backend.evaluation.methods import InteractiveMethod, SegmenterMethod, StartedPhotograph
from m2n2_backend.evaluation.noc import clicks_per_sample, clicks_to_reach, mean_iou_per_click
from m2n2_backend.evaluation.protocol import ProtocolName
from m2n2_backend.evaluation.report import explain as explanation
from m2n2_backend.evaluation.report.page import HISTOGRAMS, Picture, render_page
from m2n2_backend.evaluation.report.plots import (
    draw_image,
    new_figure,
    plot_iou_per_click,
    plot_noc_histogram,
    plural,
    save,
)
from m2n2_backend.evaluation.sample import SampleRun, evaluate_sample
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.overlay import draw_overlay
from m2n2_backend.prompts import Click

CASES = 4
"""Number of samples that are shown as best, as median and as worst, and in a row."""

EXPLAINED_CLICKS = 5
"""Largest number of clicks whose maps are shown."""

Step = Callable[[int, int], None]
"""Is told how many pictures are done, and how many there will be."""


@dataclass(frozen=True)
class Beside:
    """Another method, and what ``run.evaluate`` returned for it on the same samples."""

    result: Mapping[str, Any]
    method: InteractiveMethod


def write_report(
    result: Mapping[str, Any],
    samples: Sequence[Sample],
    method: InteractiveMethod,
    out_dir: Path,
    *,
    explain: str | None = None,
    beside: Beside | None = None,
    title: str | None = None,
    worst: int | None = None,
    step: Step = lambda done, total: None,
) -> Path:
    """Write ``index.html`` and its pictures.

    The JSON does not hold masks, so the samples that are shown are run once more; equal clicks give equal masks.

    Args:
        result: What ``run.evaluate`` returned.
        samples: All samples of that run.
        method: The method that was evaluated.
        out_dir: Folder of the page, which is created if necessary.
        explain: Name of the sample whose maps are shown, if the method has maps; the median sample by default.
        beside: Another method, shown beside this one.
        title: What the page calls the data set.
        worst: Number of samples that are shown as worst; ``CASES`` by default.
        step: Called with the number of pictures that are done and the number of all, as soon as each is done.

    Returns:
        The path of the page.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    ious: Mapping[str, Sequence[float]] = result["samples"]
    protocol: ProtocolName = result["protocol"]
    by_name = {sample.name: sample for sample in samples}
    _draw_curves([result, beside.result] if beside else [result], out_dir)
    shown = {str(result["method"]): method} | ({str(beside.result["method"]): beside.method} if beside else {})
    groups = choose_cases(ious, CASES if worst is None else worst)
    # The panels show levels and score curves, which the released code's rules do not have.
    segmenter = method.segmenter if isinstance(method, SegmenterMethod) else None
    explained = segmenter if segmenter and segmenter.method.rules == "ours" else None
    count = sum(map(len, groups.values())) * len(shown) + (1 + EXPLAINED_CLICKS if explained else 0)
    pictures = _Counter(count, step)
    cases = []
    for kind, names in groups.items():
        _draw_cases([by_name[name] for name in names], shown, protocol, out_dir / f"{kind}.png", pictures)
        caption = f"{kind.capitalize()} cases" + (f": {' above '.join(shown)}" if beside else "")
        cases.append(Picture(f"{kind}.png", caption))
    panels: list[Picture] = []
    if explained:
        chosen = by_name[explain or ranked(ious)[len(ious) // 2]]
        panels = _explain(chosen, explained, protocol, out_dir / "explain", pictures)
    page = out_dir / "index.html"
    page.write_text(render_page(result, cases, panels, beside.result if beside else None, title), encoding="utf-8")
    pictures.finish()
    return page


def _draw_curves(results: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw the curves of one or two results together, and the histogram of each."""
    curves = {str(each["method"]): mean_iou_per_click(each["samples"]) for each in results}
    plot_iou_per_click(curves, folder / "iou_per_click.png")
    for file, each in zip(HISTOGRAMS, results, strict=False):
        counts85, counts90 = (clicks_per_sample(each["samples"], quality) for quality in (0.85, 0.90))
        plot_noc_histogram(counts85, counts90, folder / file)


class _Counter:
    """Counts the pictures that are done."""

    def __init__(self, total: int, step: Step) -> None:
        self._done, self._total, self._step = 0, total, step
        step(0, total)

    def next(self) -> None:
        self._done += 1
        self._step(self._done, self._total)

    def finish(self) -> None:
        """Fewer pictures are drawn where fewer clicks are enough."""
        self._step(self._total, self._total)


def ranked(ious: Mapping[str, Sequence[float]]) -> list[str]:
    """Names from the best sample to the worst: by clicks to IoU 0.90, then clicks to 0.85, then mean IoU."""
    counts85, counts90 = clicks_per_sample(ious, 0.85), clicks_per_sample(ious, 0.90)
    losses = [1.0 - float(np.mean(values)) for values in ious.values()]
    return [name for *_, name in sorted(zip(counts90.tolist(), counts85.tolist(), losses, ious, strict=True))]


def choose_cases(ious: Mapping[str, Sequence[float]], worst: int = CASES) -> dict[str, list[str]]:
    """Names of the ``best``, ``median`` and ``worst`` samples, at most ``CASES`` of each; ``worst`` of the worst."""
    names = ranked(ious)
    middle = max(0, (len(names) - CASES) // 2)
    return {"best": names[:CASES], "median": names[middle : middle + CASES], "worst": names[-worst:]}


def _draw_cases(
    samples: Sequence[Sample],
    methods: Mapping[str, InteractiveMethod],
    protocol: ProtocolName,
    path: Path,
    pictures: _Counter,
) -> None:
    """Draw rows of samples, one of each method, each sample at the click that reaches IoU 0.90 or at the last one."""
    parts = [samples[first : first + CASES] for first in range(0, len(samples), CASES)]
    rows = [(part, name) for part in parts for name in methods]
    figure = new_figure(4.2 * len(parts[0]), 4.0 * len(rows))
    axes = np.asarray(figure.subplots(len(rows), len(parts[0]), squeeze=False))
    for row, (part, name) in zip(axes, rows, strict=True):
        for panel in row[len(part) :]:
            panel.set_axis_off()
        for panel, sample in zip(row, part, strict=False):
            rgb, label, session, run = _replay(sample, methods[name], protocol)
            clicks = _until_good(run)
            mask = session.mask(clicks)
            iou = run.ious[len(clicks) - 1]
            reached = "0.90 reached" if iou >= 0.90 else "0.90 never reached"
            title = f"{sample.name}\n{name}: {reached}\nclick {len(clicks)}, IoU {iou:.3f}"
            draw_image(panel, draw_overlay(rgb, mask, clicks, truth=label == OBJECT), title)
            pictures.next()
    save(figure, path)


def _replay(
    sample: Sample, method: InteractiveMethod, protocol: ProtocolName
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], StartedPhotograph, SampleRun]:
    rgb = sample.rgb()
    label = sample.label(rgb.shape[:2])
    session = method.start(rgb)
    return rgb, label, session, evaluate_sample(session, label, protocol=protocol)


def _until_good(run: SampleRun) -> tuple[Click, ...]:
    """The clicks up to the one that reaches IoU 0.90, or all clicks."""
    return run.clicks[: clicks_to_reach(run.ious, 0.90)]


def _explain(
    sample: Sample, segmenter: Segmenter, protocol: ProtocolName, folder: Path, pictures: _Counter
) -> list[Picture]:
    """Draw the maps and scores of one sample's first clicks."""
    rgb, _, _, run = _replay(sample, SegmenterMethod(segmenter), protocol)
    clicks = _until_good(run)[:EXPLAINED_CLICKS]
    files = explanation.explain(segmenter, rgb, clicks, folder, drawn=pictures.next)
    captions = [f"{sample.name} after {plural(len(clicks), 'click')}"]
    captions += [f"Click {index} of {sample.name}" for index in range(1, len(clicks) + 1)]
    return [Picture(f"{folder.name}/{path.name}", text) for path, text in zip(files, captions, strict=True)]
