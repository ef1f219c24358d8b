"""Pictures that explain a mask: the maps and score curves of every click (the paper's Fig. 2 and 9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from m2n2_backend.evaluation.report.explain_refined import draw_refined
from m2n2_backend.evaluation.report.explain_views import draw_views
from m2n2_backend.evaluation.report.plots import TITLE_WIDTH, draw_image, new_figure, plural, save
from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.flood_fill import LEVELS
from m2n2_backend.m2n2.paper.threshold import Profile
from m2n2_backend.m2n2.places import level_at, split
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState, PromptMap
from m2n2_backend.m2n2.strategy import placed_at
from m2n2_backend.overlay import at_size, draw_overlay
from m2n2_backend.prompts import PointPrompt, Prompts, Region

CURVES = {"prior": "#e3b341", "edge": "#1f6feb", "pos": "#1a9c3c", "neg": "#d1242f"}
"""Colors of the four scores."""


@dataclass(frozen=True)
class ScoreCurves:
    """The four scores of one click for every threshold (Eq. 9).

    Attributes:
        scores: The scores by name, each float64 [65536] in [0, 1]; ``edge`` is divided by its largest value, which
            does not change the choice.
        total: Product of the scores that the method uses; 0 where the segment is too small to be a candidate.
    """

    scores: dict[str, NDArray[np.float64]]
    total: NDArray[np.float64]


def explain(
    segmenter: Segmenter,
    rgb: NDArray[np.uint8],
    clicks: Sequence[PointPrompt],
    out_dir: Path,
    boxes: Sequence[Region] = (),
    *,
    drawn: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Draw the result and, for every click, its maps before and after the flood fill and its four score curves.

    If the method refines, each click has a second row, which shows what the click's radius and the band did. If
    the photograph is large, ``views.png`` shows which views were looked at; the chosen one explains the clicks.

    Args:
        segmenter: The segmenter whose mask is explained.
        rgb: Photograph, uint8 [H, W, 3].
        clicks: Clicks on one object, of which at least one is positive if there is no box.
        out_dir: Folder for ``result.png``, ``click_01.png`` and so on; it is created if necessary.
        boxes: Boxes around the same object.
        drawn: Called as soon as a file is written.

    Returns:
        The files, the result first.

    Raises:
        InvalidPrompt: A click lies outside of the photograph, or there is neither a positive click nor a box.
    """
    prompts = Prompts(tuple(clicks), tuple(boxes))
    out_dir.mkdir(parents=True, exist_ok=True)
    state = segmenter.encode(rgb)
    segmentation = segmenter.segment(state, clicks, boxes)
    paths = [out_dir / "result.png"]
    _draw_result(rgb, segmentation, clicks, paths[0])
    drawn()
    thresholds = segmentation.thresholds
    if state.views is not None and (choice := segmentation.choice) is not None:
        paths.append(out_dir / "views.png")
        draw_views(segmentation.overlay(rgb), choice, paths[-1])
        inside = [choice.view.click(each) is not None for each in clicks]
        thresholds = tuple(each for each, is_inside in zip(thresholds, inside, strict=True) if is_inside)
        state, rgb, prompts = state.views.state_of(choice.view), choice.view.crop(rgb), choice.view.prompts(prompts)
    for index in range(len(prompts.clicks)):
        paths.append(out_dir / f"click_{index + 1:02d}.png")
        _draw_click(segmenter, state, rgb, prompts, index, thresholds[index], paths[-1])
        drawn()
    return paths


def score_curves(
    profile: Profile, same: Sequence[int], other: Sequence[int], method: Hyperparameters, least_area: float = 0.0
) -> ScoreCurves:
    """The four scores for all thresholds.

    Args:
        profile: Profile of the click's map.
        same: Levels of that map at the clicks of the same label, this click included.
        other: Levels at the clicks of the other label.
        method: Says which scores count, and the prior's share of the image.
        least_area: Share of the image that a segment needs to be a candidate.
    """
    thresholds = np.arange(LEVELS)
    scores = {
        "prior": (profile.area < method.prior).astype(np.float64),
        "edge": profile.edge / max(float(profile.edge.max()), 1e-12),
        "pos": np.mean([thresholds >= level for level in same], axis=0),
        "neg": (thresholds < min(other, default=LEVELS)).astype(np.float64),
    }
    total = (profile.area >= least_area).astype(np.float64)
    for name, score in scores.items():
        if getattr(method.scores, name):
            total *= score
    return ScoreCurves(scores, total)


def _draw_result(
    rgb: NDArray[np.uint8], segmentation: Segmentation, clicks: Sequence[PointPrompt], path: Path
) -> None:
    height, width = rgb.shape[:2]
    figure = new_figure(8.0, 8.0 * height / width + 0.4)
    share = float(segmentation.mask.mean())
    title = f"{plural(len(clicks), 'click')}, {share:.1%} of the image, score {segmentation.score:.2f}"
    draw_image(figure.add_subplot(), segmentation.overlay(rgb), title, 2 * TITLE_WIDTH)
    save(figure, path)


def _draw_click(
    segmenter: Segmenter,
    state: ImageState,
    rgb: NDArray[np.uint8],
    prompts: Prompts,
    index: int,
    threshold: float,
    path: Path,
) -> None:
    """Draw the click's segment, its maps before and after the flood fill, its scores, and what refining did."""
    clicks = prompts.clicks
    click, prefix = clicks[index], replace(prompts, clicks=clicks[: index + 1])
    before, after = _map_without_flood(segmenter, state, click), segmenter.prompt_map(state, click)
    height, width = rgb.shape[:2]
    refined = segmenter.method.refine and (prefix.boxes or any(each.positive for each in prefix.clicks))
    rows = 2 if refined else 1
    figure = new_figure(16.0, rows * (4.0 * max(0.7, min(1.2, height / width)) + 0.4))
    panels = np.atleast_2d(figure.subplots(rows, 4))
    level = round(threshold / after.step)
    segment = at_size(after.levels <= level, (height, width))
    kind = "foreground" if click.positive else "background"
    draw_image(panels[0, 0], draw_overlay(rgb, segment, [click]), f"click {index + 1}, {kind}: its segment alone")
    _draw_map(panels[0, 1], before, level * after.step, "map before the flood fill")
    title = "map after the flood fill" if segmenter.method.flood_fill else "the same map: no flood fill"
    _draw_map(panels[0, 2], after, level * after.step, title)
    _draw_scores(panels[0, 3], segmenter, state, after, clicks, index, level)
    if refined:
        draw_refined(panels[1], segmenter, state, rgb, prefix)
    save(figure, path)


def _map_without_flood(segmenter: Segmenter, state: ImageState, click: PointPrompt) -> PromptMap:
    """|M - M[x]|, from the cell maps that the state already holds."""
    plain = Segmenter(segmenter.backbone, replace(segmenter.method, flood_fill=False))
    return plain.prompt_map(replace(state, clicks=ByteCache(0)), click)


def _draw_map(axes: Axes, shown: PromptMap, threshold: float, title: str) -> None:
    """Draw the map as in the paper's Fig. 2: near is white, the line is the segment's edge."""
    values = shown.levels * np.float32(shown.step)
    # Cells that are never reached have 1000 steps, and would give all others nearly the same shade.
    most = max(float(np.quantile(values, 0.9)), 1.5 * threshold, 1e-6)
    axes.imshow(values, cmap="gray_r", vmin=0.0, vmax=most)
    if values.min() <= threshold < values.max():
        axes.contour(values, levels=[threshold], colors="#2896ff", linewidths=1.2)
    axes.set_title(title, fontsize=12)
    axes.set_axis_off()


def _draw_scores(
    axes: Axes,
    segmenter: Segmenter,
    state: ImageState,
    own: PromptMap,
    clicks: Sequence[PointPrompt],
    index: int,
    level: int,
) -> None:
    """Draw the four scores and their product over λ, and the chosen λ, as in the paper's Fig. 9."""
    prompts = placed_at(state, clicks)
    at = [level_at(own.levels, each.place) for each in prompts]
    same, other = split(at, prompts, prompts[index].positive)
    method = segmenter.method
    curves = score_curves(own.profile, same, other, method, segmenter.least_area(state))
    # The axis ends where everything is inside, or a little beyond the largest possible choice.
    last = min(LEVELS - 1, max(int(own.levels.max()), level, 1))
    possible = np.flatnonzero(curves.total[: last + 1] > 0)
    last = min(last, int(1.5 * max(level, possible[-1] if possible.size else 0)) + 1)
    thresholds = np.arange(last + 1) * own.step
    for name, color in CURVES.items():
        style = "-" if getattr(method.scores, name) else ":"
        # If curves coincide, the thicker one below is still visible.
        width = 3.5 if name == "prior" else 1.2
        axes.plot(thresholds, curves.scores[name][: last + 1], style, color=color, linewidth=width, label=f"s_{name}")
    axes.fill_between(thresholds, curves.total[: last + 1], color="0.85", label="product")
    axes.axvline(level * own.step, color="black", linewidth=1.2, linestyle="--", label=f"λ = {level * own.step:.3g}")
    axes.set(xlabel="threshold λ", ylim=(-0.02, 1.05), xlim=(0, thresholds[-1]))
    axes.set_title("scores of all thresholds", fontsize=12)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
