"""Figures and picture names → the report's HTML, by the template ``page.html``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader

from m2n2_backend.evaluation.report.plots import plural
from m2n2_backend.evaluation.report.published import COLUMNS, COUNTS, PUBLISHED, TITLES

HISTOGRAMS = ("noc_histogram.png", "noc_histogram_beside.png")
"""Files of the histograms: of the result, and of the one beside it."""


@dataclass(frozen=True)
class Picture:
    """One PNG of the page.

    Attributes:
        file: Path relative to the page.
        caption: Text below the picture.
    """

    file: str
    caption: str


def render_page(
    result: Mapping[str, Any],
    cases: Sequence[Picture],
    explanation: Sequence[Picture],
    beside: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> str:
    """The page as one string.

    Args:
        result: What ``run.evaluate`` returns.
        cases: Best, median and worst samples.
        explanation: Maps and scores of one sample; may be empty.
        beside: Result of another method on the same samples.
        title: What the page calls the data set; a benchmark has its usual name.
    """
    results = [result] if beside is None else [result, beside]
    dataset = str(result["dataset"])
    is_published = dataset in COLUMNS
    columns = COLUMNS if is_published else (dataset,)
    titles = {**TITLES, dataset: title or TITLES.get(dataset, dataset)}
    curves = [Picture("iou_per_click.png", "Mean IoU after each click")]
    for file, each in zip(HISTOGRAMS, results, strict=False):
        curves.append(Picture(file, f"{each['method']}: distribution of the number of clicks"))
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template("page.html").render(
        title=f"{titles[dataset]}: {' beside '.join(dict.fromkeys(map(_method_title, results)))}",
        result=result,
        noc_head=["method", *(titles[column] for column in columns)],
        measured=[_measured_cells(each, columns, is_published) for each in results],
        published=[_published_cells(row.method, row.figures) for row in PUBLISHED] if is_published else [],
        comparability=_comparability(result) if is_published else f"Protocol of the clicks: {result['protocol']}.",
        counts=[f"mean IoU after {plural(int(count), 'click')}" for count in result["iou_at"]],
        figure_rows=[_figure_cells(each, list(result["iou_at"])) for each in results],
        curves=curves,
        cases=cases,
        explanation=explanation,
        fingerprint=json.dumps(result["fingerprint"], indent=1),
    )


def _method_title(result: Mapping[str, Any]) -> str:
    name = str(result["method"]) + (" as released" if result["preset"] == "released" else "")
    backbone = str(result["backbone"] or "").partition(":")[0]  # without what follows as a remark
    return f"{name}, {backbone}" if backbone else name


def _comparability(result: Mapping[str, Any]) -> str:
    text = (
        "Gray rows are published figures (Karmann & Urfalioglu, CVPR 2025), not measured here; "
        "those of M2N2 are by the protocol released."
    )
    if result["protocol"] != "released":
        text += f" The measured row is by the protocol {result['protocol']}: run --protocol released to compare."
    count = COUNTS.get(result["dataset"])
    if count and count != result["n"]:
        text += f" The measured row is over {result['n']} objects, the published ones over {count}: another set."
    return text


def _measured_cells(result: Mapping[str, Any], columns: Sequence[str], is_published: bool) -> list[str]:
    """A row of the first table, with the figure under its data set."""
    own = {result["dataset"]: f"{result['noc85']:.2f} / {result['noc90']:.2f}"}
    name = _method_title(result) + (f" (measured, protocol {result['protocol']})" if is_published else "")
    return [name, *(own.get(column, "") for column in columns)]


def _published_cells(method: str, figures: Sequence[tuple[float | None, float]]) -> list[str]:
    cells = [f"{'–' if noc85 is None else f'{noc85:.2f}'} / {noc90:.2f}" for noc85, noc90 in figures]
    return [f"{method} (published)", *cells]


def _figure_cells(result: Mapping[str, Any], counts: Sequence[str]) -> list[str]:
    cells = [f"{result[name]:.2f}" for name in ("noc85", "noc90", "noc95")]
    cells += [str(result["not_reached_90"]), f"{result['collapses']:.2f}"]
    return [result["method"], *cells, *(f"{result['iou_at'][count]:.3f}" for count in counts)]
