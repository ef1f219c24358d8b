"""The straightforward implementation beside ours, in the same run."""

from __future__ import annotations

import importlib.util
import statistics
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.commands.bench.photographs import new_clicks
from m2n2_backend.commands.bench.timing import timed
from m2n2_backend.errors import SettingsError
from m2n2_backend.evaluation import reference
from m2n2_backend.evaluation.reference import PlainState
from m2n2_backend.m2n2.attention import AttentionFeatures
from m2n2_backend.prompts import Click

LARGEST_CELLS = 4096
"""Above this many cells it is given our matrix: its own would take minutes."""

_CPU = torch.device("cpu")
_TOLERANCE, _MAX_SWEEPS = 1e-4, 2000


@dataclass(frozen=True)
class PlainEffort:
    """How much of it is run.

    Attributes:
        repeats: Clicks, each of another pixel.
        candidates: Thresholds it tries: one mask for each of 65536 would flatter the ratio.
        dense: Whether to click once with dense guidance, which takes a minute.
    """

    repeats: int = 2
    candidates: int = 200
    dense: bool = True


def require_scikit_image() -> None:
    """Raise before anything is measured.

    Raises:
        SettingsError: scikit-image is missing.
    """
    if importlib.util.find_spec("skimage") is None:
        raise SettingsError("the straightforward implementation needs scikit-image: pip install 'm2n2-backend[eval]'")


def plain_times(
    rgb: NDArray[np.uint8], features: AttentionFeatures, matrix: torch.Tensor, samples: int, effort: PlainEffort
) -> dict[str, Any]:
    """Milliseconds on the CPU in 32-bit.

    Args:
        rgb: uint8 [H, W, 3].
        features: The backbone's; making them is not timed.
        matrix: Our P [n, n], used where there are more than ``LARGEST_CELLS`` cells.
        samples: JBU guidance as sparse as ours.
        effort: How much is run.

    Returns:
        ``aggregate``, ``transition``, ``click``, ``click_dense`` (None where not run), ``candidates``.
    """
    figures: dict[str, Any] = {"aggregate": None, "transition": None}
    grid = (features.height, features.width)
    if features.cells <= LARGEST_CELLS:
        kept: list[Any] = []
        attend = partial(reference.attention_matrix, features, np.float32)
        figures["aggregate"] = timed(_CPU, lambda: kept.append(attend()))
        figures["transition"] = timed(_CPU, lambda: kept.append(_fit(kept[0])))
        state = PlainState(rgb, grid, kept[1])
    else:
        state = PlainState(rgb, grid, matrix.float().cpu().numpy())
    segment = partial(reference.segment, state, candidates=effort.candidates)
    size = (rgb.shape[1], rgb.shape[0])
    clicks = [Click(click.x, click.y) for click in new_clicks(size, effort.repeats)]
    times = [timed(_CPU, partial(segment, [click], samples=samples)) for click in clicks]
    figures["click"] = statistics.median(times)
    dense = partial(segment, clicks[:1], samples=0)
    figures["click_dense"] = timed(_CPU, dense) if effort.dense else None
    figures["candidates"] = effort.candidates
    return figures


def ratios(ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, float | None]:
    """Straightforward over ours, each for the same work; it keeps nothing, so all its clicks cost the same.

    Args:
        ours: With ``encode``, ``first_click``, ``new_click``, ``repeated_click``.
        plain: Of :func:`plain_times`.
    """
    pairs = {
        "aggregate": (plain["aggregate"], ours["encode"]["aggregate"]),
        "transition": (plain["transition"], ours["encode"]["transition"]),
        "first_click": (plain["click"], ours["first_click"]["median"]),
        "new_click": (plain["click"], ours["new_click"]["median"]),
        "repeated_click": (plain["click"], ours["repeated_click"]["median"]),
        "click_dense": (plain["click_dense"], ours["new_click"]["median"]),
    }
    return {name: None if theirs is None else theirs / own for name, (theirs, own) in pairs.items()}


def _fit(attention: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    sharp = reference.sharpen(attention, reference.TEMPERATURE)
    return reference.sinkhorn(sharp, tolerance=_TOLERANCE, max_sweeps=_MAX_SWEEPS)
