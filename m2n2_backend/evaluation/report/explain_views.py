"""The picture that shows which views of a large photograph were looked at, and why one was taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from m2n2_backend.evaluation.report.plots import draw_image, new_figure, save
from m2n2_backend.m2n2.views.looks import Choice, Look
from m2n2_backend.m2n2.views.view import View
from m2n2_backend.rasters import reduced

CHOSEN, OTHER = "#1a9c3c", "#e3b341"
"""Colors of the chosen view and of the others."""

_SHOWN = 1600  # pixels of the longest side


def draw_views(overlay: NDArray[np.uint8], choice: Choice, path: Path) -> None:
    """Draw the views over the photograph with its result, uint8 [H, W, 3], into the PNG ``path``."""
    height, width = overlay.shape[:2]
    small = reduced(overlay, _SHOWN)
    figure = new_figure(9.0, 9.0 * height / width + 1.2)
    axes = figure.add_subplot()
    lines = [f"{choice}", *(_words(look) for look in choice.looks)]
    draw_image(axes, small, "\n".join(lines))
    scale = small.shape[1] / width
    for look in choice.looks:
        _outline(axes, look.view, scale, OTHER)
    _outline(axes, choice.view, scale, CHOSEN)
    save(figure, path)


def _outline(axes: Axes, view: View, scale: float, color: str) -> None:
    corner, sides = (scale * view.left, scale * view.top), (scale * view.width, scale * view.height)
    axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=color, linewidth=2.5))


def _words(look: Look) -> str:
    end = ", ends at the border" if look.is_cut else ""
    return (
        f"{look.view.width}x{look.view.height}: mask {look.share:.1%} of it, ambiguity {look.ambiguity:.2f}{end}, "
        f"doubt {look.doubt:.2f}"
    )
