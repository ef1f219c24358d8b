"""Figures and picture names → the report's HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from m2n2_backend.evaluation.report.published import COLUMNS, COUNTS, PUBLISHED, TITLES


@dataclass(frozen=True)
class Picture:
    """One PNG of the page.

    Attributes:
        file: Relative to the page.
        caption: Text below it.
    """

    file: str
    caption: str


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 0.8rem 0; }
th, td { padding: 0.25rem 0.8rem; border-bottom: 1px solid #d1d9e0; text-align: right; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
tr.measured td { background: #ddf4ff; font-weight: 600; } tr.published td { color: #59636e; }
figure { margin: 0.8rem 0; } figcaption, .note { color: #59636e; font-size: 0.87rem; }
img { max-width: 100%; max-height: 30rem; }
.pair { display: flex; gap: 1rem; flex-wrap: wrap; } .pair figure { flex: 1 1 320px; }
pre { background: #f6f8fa; padding: 0.8rem; overflow-x: auto; font-size: 0.8rem; }
"""

LEGEND = (
    "Blue: the mask. White: outline of the ground truth. Dots: foreground clicks green, background clicks red; the "
    "newest has a black rim."
)

MAPS = (
    "Each row belongs to one click: the segment this click makes alone; its map before and after the flood fill "
    "(white is near, the blue line is the threshold chosen, the scale ends where nine tenths of the pixels lie); and "
    "the four scores of every threshold. Their product is largest at the chosen one."
)


REFINED = (
    " The row below tells what refining did: the mask before the click, with the circle that reaches to the nearest "
    "pixel of the click's label; the paper's answer; what was taken of it, or of its cut by color after a foreground "
    "click; and the pixels that color gave the object (green) or took from it (red) at its edge."
)


def render_page(
    result: Mapping[str, Any],
    cases: Sequence[Picture],
    explanation: Sequence[Picture],
    beside: Mapping[str, Any] | None = None,
) -> str:
    """The page as one string.

    Args:
        result: What ``run.evaluate`` returns.
        cases: Best, median and worst samples.
        explanation: Maps and scores of one sample; may be empty.
        beside: Result of another method on the same samples.
    """
    results = [result] if beside is None else [result, beside]
    title = f"{_method_title(result)} on {TITLES.get(result['dataset'], result['dataset'])}"
    curves = [Picture("iou_per_click.png", "Mean IoU after each click")]
    files = ("noc_histogram.png", "noc_histogram_beside.png")
    for file, each in zip(files, results, strict=False):
        curves.append(Picture(file, f"{each['method']}: distribution of the number of clicks"))
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(_summary_line(result))}</p>',
        "<h2>Number of clicks</h2>",
        _noc_table(results),
        f'<p class="note">{escape(_comparability(result))}</p>',
        "<h2>Figures</h2>",
        _figures_table(results),
        f'<div class="pair">{"".join(map(_figure, curves))}</div>',
        "<h2>Cases</h2>",
        f'<p class="note">{escape(LEGEND)}</p>',
        *map(_figure, cases),
    ]
    if explanation:
        text = MAPS + (REFINED if result["method"] == "refined" else "")
        parts += ["<h2>Maps and scores</h2>", f'<p class="note">{escape(text)}</p>', *map(_figure, explanation)]
    parts += ["<h2>Fingerprint</h2>", f"<pre>{escape(json.dumps(result['fingerprint'], indent=1))}</pre>"]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _method_title(result: Mapping[str, Any]) -> str:
    name = str(result["method"]) + (" as released" if result["preset"] == "released" else "")
    return f"{name}, {result['backbone']}" if result["backbone"] else name


def _summary_line(result: Mapping[str, Any]) -> str:
    return (
        f"{result['n']} objects, up to 20 simulated clicks each; medians: {result['seconds_per_encode']:.2f} s per "
        f"photograph, {result['seconds_per_click']:.3f} s per click."
    )


def _comparability(result: Mapping[str, Any]) -> str:
    text = (
        "NoC85 / NoC90. Gray rows are published figures (Karmann & Urfalioglu, CVPR 2025), not measured here; "
        "those of M2N2 are by the protocol released."
    )
    if result["protocol"] != "released":
        text += f" The measured row is by the protocol {result['protocol']}: run --protocol released to compare."
    count = COUNTS.get(result["dataset"])
    if count and count != result["n"]:
        text += f" The measured row is over {result['n']} objects, the published ones over {count}: another set."
    return text


def _noc_table(results: Sequence[Mapping[str, Any]]) -> str:
    """The measured rows above the published ones, each figure under its data set."""
    result = results[0]
    columns = list(COLUMNS)
    if result["dataset"] not in columns:
        columns.append(result["dataset"])
    head = "".join(f"<th>{escape(TITLES.get(column, column))}</th>" for column in columns)
    rows = []
    for each in results:
        own = {each["dataset"]: f"{each['noc85']:.2f} / {each['noc90']:.2f}"}
        rows.append(
            _row(
                "measured",
                f"{_method_title(each)} (measured, protocol {each['protocol']})",
                [own.get(column, "") for column in columns],
            )
        )
    for published in PUBLISHED:
        cells = [f"{'–' if noc85 is None else f'{noc85:.2f}'} / {noc90:.2f}" for noc85, noc90 in published.figures]
        cells += [""] * (len(columns) - len(COLUMNS))
        rows.append(_row("published", f"{published.method} (published)", cells))
    return f"<table><tr><th>method</th>{head}</tr>{''.join(rows)}</table>"


def _figures_table(results: Sequence[Mapping[str, Any]]) -> str:
    counts = list(results[0]["iou_at"])
    names = ["method", "NoC85", "NoC90", "NoC95", "objects that never reach 0.90", "collapses per object"]
    names += [f"mean IoU after {count}" for count in counts]
    rows = []
    for each in results:
        cells = [f"{each['noc85']:.2f}", f"{each['noc90']:.2f}", f"{each['noc95']:.2f}", str(each["not_reached_90"])]
        cells += [f"{each['collapses']:.2f}", *(f"{each['iou_at'][count]:.3f}" for count in counts)]
        rows.append(_row("", each["method"], cells))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _row(kind: str, first: str, cells: Sequence[str]) -> str:
    others = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr class="{kind}"><td>{escape(first)}</td>{others}</tr>'


def _figure(picture: Picture) -> str:
    caption = escape(picture.caption)
    return f'<figure><img src="{escape(picture.file)}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
