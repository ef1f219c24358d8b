"""Curves, histograms and pictures.

Only matplotlib's objects are used, and not its global state, so that other threads and notebooks are not affected.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from m2n2_backend.evaluation.noc import MAX_CLICKS

TITLE_WIDTH = 38
"""Characters that fit above a picture of four inches; longer lines would run into the next picture's."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with its own canvas; sizes in inches of 100 pixels."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without margins. It does not name the software, so that equal pictures are equal files."""
    figure.savefig(path, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.06)


def plot_iou_per_click(curves: Mapping[str, NDArray[np.float64]], path: Path) -> None:
    """Plot the mean IoU after each click (the paper's Fig. 6).

    Args:
        curves: Curves of at most two methods by name, each float64 [20] in [0, 1].
        path: The PNG to write.
    """
    figure = new_figure(6.0, 3.6)
    axes = figure.add_subplot()
    clicks = np.arange(1, MAX_CLICKS + 1)
    for quality in (0.85, 0.90):
        axes.axhline(quality, color="0.6", linewidth=1, linestyle="--")
    for (method, curve), color in zip(curves.items(), ("#1f6feb", "#8250df"), strict=False):
        axes.plot(clicks, curve, marker="o", markersize=4, color=color, label=method)
    lowest = min(float(curve.min()) for curve in curves.values())
    axes.set(xlabel="clicks", ylabel="mean IoU", xticks=clicks, ylim=(min(0.5, lowest) - 0.02, 1.0))
    axes.legend(frameon=False, loc="lower right")
    axes.set_yticks([0.85, 0.95], minor=True, labels=["0.85", "0.95"])
    axes.grid(axis="y", color="0.93")
    _plain(axes)
    save(figure, path)


def plot_noc_histogram(counts85: NDArray[np.int64], counts90: NDArray[np.int64], path: Path) -> None:
    """Plot the share of the objects by number of clicks (the paper's Fig. 7) into the PNG ``path``.

    The counts are the clicks to IoU 0.85 and 0.90, int64 [n] each, 1 to 20.
    """
    figure = new_figure(6.0, 3.6)
    axes = figure.add_subplot()
    clicks = np.arange(1, MAX_CLICKS + 1)
    for offset, counts, label, color in ((-0.2, counts85, "NoC85", "#9ec5fe"), (0.2, counts90, "NoC90", "#1f6feb")):
        shares = np.bincount(counts, minlength=MAX_CLICKS + 1)[1:] / len(counts)
        axes.bar(clicks + offset, shares * 100.0, width=0.4, label=label, color=color)
    axes.set(xlabel="clicks (20: reached at the last click or never)", ylabel="% of the objects", xticks=clicks)
    axes.legend(frameon=False)
    _plain(axes)
    save(figure, path)


def draw_image(axes: Axes, picture: NDArray[np.uint8], title: str, width: int = TITLE_WIDTH) -> None:
    """Draw a picture with a title above it, whose lines have at most ``width`` characters."""
    axes.imshow(picture)
    axes.set_title("\n".join(textwrap.fill(line, width) for line in title.splitlines()), fontsize=12)
    axes.set_axis_off()


def plural(count: int, noun: str) -> str:
    """``1 click``, ``2 clicks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
