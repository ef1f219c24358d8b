"""What can be evaluated, behind one small protocol: the paper's method, its variants, and three classics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.errors import SettingsError
from m2n2_backend.evaluation.baselines import Geodesic, GrabCut, RandomWalker
from m2n2_backend.m2n2.attention import Backbone
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.m2n2.threshold import Scores
from m2n2_backend.prompts import Click

FRAMEWORK = ("m2n2", "m2n2-no-flood", "attention-nn", "kl-nn")
"""Methods that need a backbone (Sec. 3 and 8)."""

CLASSICS = ("grabcut", "random-walker", "geodesic")
"""Methods that look at nothing but colors."""

METHODS = FRAMEWORK + CLASSICS
"""All names ``start_method`` knows."""

SCORES = ("prior", "edge", "pos", "neg")
"""Factors of Eq. 9, in the order of the paper's Table 2."""

PHOTOGRAPH_SIZE = 1 << 16
"""A working size no photograph reaches: evaluation computes masks at the photograph's own size."""


class Session(Protocol):
    """One photograph in work. Clicks are handed over all at once each time; nothing else carries over."""

    @property
    def grid(self) -> int | None:
        """Cells per side of the attention grid; None where there is no attention."""
        ...

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        """Segment: at least one positive click → bool [H, W] at the photograph's size."""
        ...


class InteractiveMethod(Protocol):
    """Anything that turns clicks into masks."""

    def start(self, rgb: NDArray[np.uint8]) -> Session:
        """Do what depends on the photograph alone; ``rgb`` is uint8 [H, W, 3]."""
        ...


@dataclass(frozen=True)
class MethodOptions:
    """A method by name, and what deviates from it. None and empty mean the method's own value.

    Attributes:
        name: One of ``METHODS``.
        drop_scores: Factors of Eq. 9 to leave out. All four: λ is half of the map's maximum, as in the first row of
            the paper's Table 2.
        temperature: T of Eq. 5.
        threshold: τ of Eq. 6.
        tolerance: Of IPF.
        flood_fill: Whether the map is flooded; by default for ``m2n2`` alone. The paper does not say whether its
            baselines are: on GrabCut with ViT-Tiny they follow the order of its Table 3 without (NoC85: m2n2 2.28,
            without flood fill 3.46, kl-nn 3.64, attention-nn 5.88), not with it (kl-nn 2.50, attention-nn 3.14).
        radius: Of the JBU window, in cells.
        samples: JBU guidance samples per side of a cell; 0 reads every pixel.
        despeckle: Share of the image below which specks and holes are removed; 0 is the paper's exact output.
        least_cells: Thresholds whose segment is smaller are no candidates; 0 takes all, as the paper does.
        working_size: Longest side at which masks are computed; None is the photograph's own.
    """

    name: str = "m2n2"
    drop_scores: tuple[str, ...] = ()
    temperature: float | None = None
    threshold: float | None = None
    tolerance: float | None = None
    flood_fill: bool | None = None
    radius: int | None = None
    samples: int | None = None
    despeckle: float = 0.0
    least_cells: float = 0.0
    working_size: int | None = None

    @property
    def needs_backbone(self) -> bool:
        """Whether attention is read."""
        return self.name in FRAMEWORK

    def validate(self) -> None:
        """Check the names, and that a classic is not asked for what it does not have.

        Raises:
            SettingsError: An unknown name, or a switch without effect.
        """
        if self.name not in METHODS:
            raise SettingsError(f"unknown method {self.name}: there are {', '.join(METHODS)}")
        unknown = set(self.drop_scores) - set(SCORES)
        if unknown:
            raise SettingsError(f"unknown scores {', '.join(sorted(unknown))}: there are {', '.join(SCORES)}")
        if not self.needs_backbone and self != MethodOptions(self.name):
            raise SettingsError(f"the method {self.name} has none of the switches of m2n2")
        if self.name == "m2n2-no-flood" and self.flood_fill:
            raise SettingsError("m2n2-no-flood with flood fill is m2n2")
        if (
            self.name in ("attention-nn", "kl-nn")
            and (self.temperature, self.threshold, self.tolerance) != (None,) * 3
        ):
            raise SettingsError(f"the method {self.name} has a fixed temperature and neither τ nor IPF")

    def hyperparameters(self) -> Method:
        """All choices of the framework, for one of the names in ``FRAMEWORK``."""
        method = Method(
            scores=Scores(**{score: score not in self.drop_scores for score in SCORES}),
            fixed_threshold=0.5 if set(self.drop_scores) == set(SCORES) else None,
            despeckle=self.despeckle,
            least_cells=self.least_cells,
            working_size=self.working_size or PHOTOGRAPH_SIZE,
            half=False,  # the paper's precision after the model, on any device
            flood_fill=self.name == "m2n2" if self.flood_fill is None else self.flood_fill,
            relation={"attention-nn": "attention", "kl-nn": "kl"}.get(self.name, "markov"),  # type: ignore[arg-type]
        )
        changes = {
            name: value
            for name in ("temperature", "threshold", "tolerance", "radius", "samples")
            if (value := getattr(self, name)) is not None
        }
        return replace(method, **changes)


def start_method(options: MethodOptions, load_backbone: Callable[[], Backbone] | None) -> InteractiveMethod:
    """Make a method ready; loads the backbone if one is needed.

    Args:
        options: Which method.
        load_backbone: Called at most once.

    Raises:
        SettingsError: See ``MethodOptions.validate``; or a backbone is needed and there is none.
        BackboneUnavailable: It cannot be loaded.
    """
    options.validate()
    classics: dict[str, InteractiveMethod] = {
        "grabcut": GrabCut(),
        "random-walker": RandomWalker(),
        "geodesic": Geodesic(),
    }
    if options.name in classics:
        return classics[options.name]
    if load_backbone is None:
        raise SettingsError(f"the method {options.name} needs a backbone")
    return SegmenterMethod(make_segmenter(options, load_backbone()))


def make_segmenter(options: MethodOptions, backbone: Backbone) -> Segmenter:
    """The segmenter of one of the framework's methods."""
    return Segmenter(backbone, options.hyperparameters())


@dataclass(frozen=True)
class SegmenterMethod:
    """The framework's methods."""

    segmenter: Segmenter

    def start(self, rgb: NDArray[np.uint8]) -> Session:
        """Encode the photograph."""
        return _SegmenterSession(self.segmenter, self.segmenter.encode(rgb))


@dataclass(frozen=True)
class _SegmenterSession:
    segmenter: Segmenter
    state: ImageState

    @property
    def grid(self) -> int | None:
        return self.state.grid[0]

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        return self.segmenter.segment(self.state, clicks).mask
