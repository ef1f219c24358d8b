"""The figures as a picture; what was not measured is left out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2n2_backend.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figures = Mapping[str, Any]
Panel = Callable[["Axes"], None]

_OURS, _PLAIN, _THIRD = "#1f6feb", "#9aa4b2", "#f0883e"
_WIDTH, _HEIGHT = 6.0, 3.6  # inches of a panel


def require_matplotlib() -> None:
    """Raise before anything is measured.

    Raises:
        SettingsError: matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise SettingsError("--plot needs matplotlib: pip install 'm2n2-backend[eval]'")


def plot(figures: Figures, path: Path) -> None:
    """Draw a panel for everything there is.

    Args:
        figures: Of :func:`m2n2_backend.commands.bench.run_bench`.
        path: PNG to write; its folder is made if need be.

    Raises:
        SettingsError: matplotlib is missing.
    """
    require_matplotlib()
    from m2n2_backend.evaluation.plots import new_figure, save

    panels = _panels(figures)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(_WIDTH * columns, _HEIGHT * rows)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(color="0.93")
        panel(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def _panels(figures: Figures) -> list[Panel]:
    panels: list[Panel] = []
    for name, parts in figures.get("parts", {}).items():
        panels.append(lambda axes, name=name, parts=parts: _parts(axes, name, parts))  # type: ignore[misc]
    if "switches" in figures:
        panels.append(lambda axes: _switches(axes, figures["switches"]))
    if "service" in figures:
        panels.append(lambda axes: _service(axes, figures["service"]))
    if "sweep" in figures:
        sweep = figures["sweep"]
        panels.append(lambda axes: _grids(axes, sweep["grids"]))
        panels.append(lambda axes: _photographs(axes, sweep["photographs"]))
    return panels


def _parts(axes: Axes, name: str, parts: Figures) -> None:
    encode, plain = parts["encode"], parts["straightforward"]
    ours = {
        "model": encode["features"],
        "aggregate": encode["aggregate"],
        "transition": encode["transition"],
        "JBU table": encode["upsample_table"],
        "new click": parts["new_click"]["median"],
        "repeated click": parts["repeated_click"]["median"],
        "box": parts["box"]["median"],
    }
    theirs = {"aggregate": plain["aggregate"], "transition": plain["transition"], "new click": plain["click"]}
    places = range(len(ours))
    axes.barh([place - 0.2 for place in places], list(ours.values()), 0.4, color=_OURS, label="this package")
    beside = [theirs.get(key) or 0.0 for key in ours]
    axes.barh([place + 0.2 for place in places], beside, 0.4, color=_PLAIN, label="straightforward")
    axes.set_yticks(places, list(ours))
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="ms", title=f"{name}, grid {parts['grid'][0]}, {parts['width']}x{parts['height']}")
    axes.legend(frameon=False)


def _switches(axes: Axes, switches: Figures) -> None:
    tiers = ("new", "disk", "memory", "device")
    left = [0.0] * len(tiers)
    for part, color in (("encode", _THIRD), ("prepare", _PLAIN), ("segment", _OURS)):
        widths = [switches[tier]["parts"][part] for tier in tiers]
        axes.barh(tiers, widths, 0.6, left=left, color=color, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="ms, medians", title="first click on an image, by where it is")
    axes.legend(frameon=False)


def _service(axes: Axes, service: Figures) -> None:
    load = service["annotators"]
    groups = {
        "new image": service["new_image"],
        "image on disk": service["disk_image"],
        "new click": service["new_click"],
        "repeated request": service["repeated_request"],
        f"{load['count']} annotators": load["latency_ms"],
    }
    shown = {name: values for name, values in groups.items() if values}
    places = range(len(shown))
    for offset, rank, color in ((-0.2, "p50", _OURS), (0.2, "p95", _PLAIN)):
        heights = [values[rank] for values in shown.values()]
        axes.barh([place + offset for place in places], heights, 0.4, color=color, label=rank)
    axes.set_yticks(places, list(shown))
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="ms", title="over HTTP, mask as RLE")
    axes.legend(frameon=False)


def _grids(axes: Axes, entries: Sequence[Figures]) -> None:
    _lines(axes, [entry["grid"] for entry in entries], entries)
    axes.set(xlabel="cells per side", title="color, by grid")


def _photographs(axes: Axes, entries: Sequence[Figures]) -> None:
    _lines(axes, [entry["width"] * entry["height"] / 1e6 for entry in entries], entries)
    axes.set(xscale="log", xlabel="megapixels", title="by photograph")


def _lines(axes: Axes, at: Sequence[float], entries: Sequence[Figures]) -> None:
    for name, color in (("decode", _PLAIN), ("encode", _THIRD), ("new_click", _OURS)):
        label = name.replace("_", " ")
        axes.plot(at, [entry[name] for entry in entries], marker="o", markersize=4, color=color, label=label)
    axes.set(yscale="log", ylabel="ms")
    axes.legend(frameon=False)
