"""The page of several backbones on the same objects: a table, the worst cases of each, and links to their pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

HEAD = (
    "backbone",
    "objects",
    "clicks for 85 %",
    "clicks for 90 %",
    "never 90 %",
    "collapses per object",
    "s per photograph",
    "s per click",
    "memory",
)
"""Names of the columns."""


@dataclass(frozen=True)
class Row:
    """One backbone.

    Attributes:
        name: The backbone as it was asked for.
        place: Its folder below the page's.
        result: What ``run.evaluate`` returned; None where it failed.
        error: Why it failed.
    """

    name: str
    place: str
    result: Mapping[str, Any] | None
    error: str = ""


def cells(row: Row) -> list[str]:
    """One row of the table, in the order of ``HEAD``."""
    result = row.result
    if result is None:
        return [f"{row.name}: {row.error}", *["–"] * (len(HEAD) - 1)]
    what = str(result["backbone"] or "").partition(":")[0]
    return [
        f"{row.name} ({what})" if what else row.name,
        str(result["n"]),
        f"{result['noc85']:.2f}",
        f"{result['noc90']:.2f}",
        str(result["not_reached_90"]),
        f"{result['collapses']:.2f}",
        f"{result['seconds_per_encode']:.2f}",
        f"{result['seconds_per_click']:.3f}",
        _memory(result["peak_memory"]),
    ]


def write_comparison(folder: Path, title: str, method: str, rows: Sequence[Row], told: Sequence[str]) -> Path:
    """Write ``index.html`` beside the folders of the backbones' own pages.

    Args:
        folder: Folder of the page, which is created if necessary.
        title: What the page calls the data set.
        method: Name of the method that all rows are of.
        rows: The backbones; the page of each lies in its ``place``.
        told: Sentences about the annotators' own work.

    Returns:
        The path of the page.
    """
    environment = Environment(loader=PackageLoader(__package__, ""), autoescape=True, trim_blocks=True)
    html = environment.get_template("comparison.html").render(
        title=f"{title}: {method}",
        head=HEAD,
        rows=[(row, cells(row)) for row in rows],
        told=told,
    )
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    page.write_text(html, encoding="utf-8")
    return page


def _memory(peak: Mapping[str, int | None]) -> str:
    gpu = peak["gpu"]
    return f"{(peak['process'] or 0) / 1e9:.1f} GB" + (f", GPU {gpu / 1e9:.1f} GB" if gpu else "")
