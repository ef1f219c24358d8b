"""The figures as tables to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Figures = Mapping[str, Any]

_SWITCHES = {"new": "new", "disk": "only on disk", "memory": "in memory", "device": "on the device"}
_CLICKS = ("first_click", "new_click", "repeated_click", "box")
_SINGLE = {
    "new_image": "first click, new image",
    "new_click": "new click",
    "repeated_request": "repeated request",
    "disk_image": "first click, image only on disk",
}
_LATENCIES = {"latency_ms": "all", "new_image_ms": "image nobody had asked about", "known_image_ms": "known image"}


def show_parts(console: Console, figures: Figures) -> None:
    """One backbone."""
    plain, ratio, encode = figures["straightforward"], figures["ratio"], figures["encode"]
    table = _table("ms", "median", "p95", "straightforward", "ratio")
    for name in ("decode", "features"):
        table.add_row(f"encode: {name}", _ms(encode[name]))
    if len(encode["model"]) > 1:
        for name, value in encode["model"].items():
            table.add_row(f"  of which {name}", _ms(value))
    for name in ("aggregate", "transition"):
        table.add_row(f"encode: {name}", _ms(encode[name]), "", _ms(plain[name]), _times(ratio[name]))
    for name in ("upsample_table", "total"):
        table.add_row(f"encode: {_words(name)}", _ms(encode[name]))
    for name in _CLICKS:
        beside = (_ms(plain["click"]), _times(ratio[name])) if name in ratio else ()
        table.add_row(_words(name), _ms(figures[name]["median"]), _ms(figures[name]["p95"]), *beside)
    if plain["click_dense"] is not None:
        table.add_row("new click, dense guidance", "", "", _ms(plain["click_dense"]), _times(ratio["click_dense"]))
    memory = figures["peak_memory"]
    device = "" if memory["device_mb"] is None else f", {memory['device_mb']:.0f} MB on the device"
    deviation = figures["blocks_deviation"]
    blocks = (
        "" if deviation is None else f"; chain in blocks of {2 ** figures['doublings']}: deviates by {deviation:.1e}"
    )
    notes = [
        f"straightforward: {plain['candidates']} candidate thresholds, 32-bit, on the CPU",
        f"peak memory {_megabytes(memory['process_mb'])}{device}{blocks}",
    ]
    _show(console, "{backbone}; {device}; {width}x{height}".format_map(figures), table, *notes)


def show_switches(console: Console, figures: Figures) -> None:
    """First click on an image, by tier."""
    table = _table("ms", "median", "p95", "encode", "prepare", "segment")
    for name, words in _SWITCHES.items():
        entry = figures[name]
        table.add_row(words, _ms(entry["median"]), _ms(entry["p95"]), *map(_ms, entry["parts"].values()))
    _show(console, "first click on an image that is …", table)


def show_service(console: Console, figures: Figures) -> None:
    """Round trips, and the load."""
    table = _table("ms", "p50", "p95")
    for name, words in _SINGLE.items():
        table.add_row(words, *map(_ms, figures[name].values()))
    _show(console, "over HTTP, one request at a time", table, f"server ready after {figures['start_seconds']:.1f} s")
    load, masks = figures["annotators"], figures["masks"]
    table = _table("latency, ms", "p50", "p95", "p99")
    for name, words in _LATENCIES.items():
        table.add_row(words, *(_ms(load[name].get(rank)) for rank in ("p50", "p95", "p99")))
    before, after = load["resident_mb_before"], load["resident_mb_after"]
    errors = ", ".join(f"{count} × {status}" for status, count in load["errors"].items()) or "none"
    if load["first_error"]:
        errors += f" ({load['first_error']})"
    notes = [
        f"{load['answered']} of {load['requests']} answered, {load['throughput_per_second']:.1f} a second",
        f"errors: {errors}",
        f"{load['images_asked']} images asked about; the model ran {load['model_runs']:.0f} times",
        f"resident: web {_megabytes(before['web'])} → {_megabytes(after['web'])}, "
        f"workers {_megabytes(before['worker'])} → {_megabytes(after['worker'])}",
        f"masks of this section computed once more alone: {masks['checked']}, of which differ: {masks['mismatches']}",
    ]
    title = f"{load['count']} annotators on {load['images']} images for {load['seconds']:.0f} s"
    _show(console, title, table, *notes)


def show_sweep(console: Console, figures: Figures) -> None:
    """Cost by grid and by photograph."""
    columns = ("decode", "encode", "new click", "MB kept")
    table = _table("ms", *columns)
    for entry in figures["grids"]:
        table.add_row(str(entry["grid"]), *_cost(entry))
    left_out = ", ".join(map(str, figures["grids_without_memory"]))
    _show(console, "color, by grid", table, *([f"too little memory for {left_out}"] if left_out else ()))
    table = _table("ms", *columns)
    for entry in figures["photographs"]:
        table.add_row(f"{entry['width']}x{entry['height']}", *_cost(entry))
    _show(console, f"{figures['photographs_backbone']}, by photograph", table)


def _cost(entry: Figures) -> tuple[str, ...]:
    return *(_ms(entry[name]) for name in ("decode", "encode", "new_click")), f"{entry['state_mb']:.0f}"


def _table(*columns: str) -> Table:
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _show(console: Console, title: str, table: Table, *notes: str) -> None:
    """Title and notes stand outside of the table, whose width they would be wrapped to."""
    console.print(title, style="bold", highlight=False)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    console.print()


def _words(name: str) -> str:
    return name.replace("_", " ")


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}×" if value < 10 else f"{value:,.0f}×"


def _megabytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f} MB"
