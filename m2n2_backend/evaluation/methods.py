"""What can be evaluated, behind one small protocol: the paper's method, its variants, and three classics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from m2n2_backend.backbones.device.memory import memory_advice
from m2n2_backend.errors import SettingsError
from m2n2_backend.evaluation.baselines import Geodesic, GrabCut, RandomWalker
from m2n2_backend.m2n2.hyperparameters import (
    DESPECKLE,
    LEAST_CELLS,
    PHOTOGRAPH_SIZE,
    Hyperparameters,
    Relation,
    with_values,
)
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.semantic_distance import MarkovRelation
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Click

FRAMEWORK = ("m2n2", "refined", "m2n2-no-flood", "attention-nn", "kl-nn")
"""Methods that need a backbone (Sec. 3 and 8)."""

CLASSICS = ("grabcut", "random-walker", "geodesic")
"""Methods that look at nothing but colors."""

METHODS = FRAMEWORK + CLASSICS
"""All names ``start_method`` knows."""

OF_THE_CHAIN = ("temperature", "tolerance", "max_sweeps", "tau", "max_iterations", "doublings", "half")
"""Hyperparameters that only a Markov chain has."""

PresetName = Literal["ours", "released"]

OF_BOTH_PRESETS = ("m2n2", "m2n2-no-flood")
"""Methods that the released code has too."""


class PhotographSession(Protocol):
    """One photograph in work. Clicks are handed over all at once each time; nothing else carries over."""

    @property
    def grid(self) -> int | None:
        """Cells per side of the attention grid; None where there is no attention."""
        ...

    @property
    def ipf_residual(self) -> float | None:
        """Largest |row sum - 1| that IPF left; None where there is no Markov chain."""
        ...

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        """Segment: at least one positive click → bool [H, W] at the photograph's size."""
        ...


class InteractiveMethod(Protocol):
    """Anything that turns clicks into masks."""

    def start(self, rgb: NDArray[np.uint8]) -> PhotographSession:
        """Do what depends on the photograph alone; ``rgb`` is uint8 [H, W, 3]."""
        ...


@dataclass(frozen=True)
class MethodChoice:
    """What is evaluated; made by :meth:`of`.

    Attributes:
        name: One of ``METHODS``.
        hyperparameters: All choices of the framework; None for a classic.
        preset: What the choices that the paper leaves open start from; the backbone has to be loaded accordingly.
    """

    name: str
    hyperparameters: Hyperparameters | None
    preset: PresetName = "ours"

    @classmethod
    def of(cls, name: str = "m2n2", values: Sequence[str] = (), preset: PresetName = "ours") -> MethodChoice:
        """A method by name, with what deviates from it.

        ``refined`` is what the service answers with. The others of the framework are the paper's. All work at the
        photograph's own size, in 32-bit after the model on any device; ``m2n2`` and ``refined`` alone flood. The
        paper does not say whether its baselines do: on GrabCut with ViT-Tiny they follow the order of its Table 3
        without (NoC85: m2n2 2.28, without flood fill 3.46, kl-nn 3.64, attention-nn 5.88), not with it (kl-nn 2.50,
        attention-nn 3.14).

        Args:
            name: One of ``METHODS``.
            values: ``NAME=VALUE`` each, a field of :class:`Hyperparameters`; ``scores.edge=false`` drops a factor of
                Eq. 9, ``none`` stands for None.
            preset: ``released`` is what the authors' code does, for ``OF_BOTH_PRESETS``.

        Raises:
            SettingsError: An unknown name, a value that is none, or one without effect.
        """
        if name not in METHODS:
            raise SettingsError(f"unknown method {name}: there are {', '.join(METHODS)}")
        if preset == "released" and name not in OF_BOTH_PRESETS:
            raise SettingsError(f"the released code has no {name}: choose among {', '.join(OF_BOTH_PRESETS)}")
        if name in CLASSICS:
            if values:
                raise SettingsError(f"the method {name} has none of the hyperparameters of m2n2")
            return cls(name, None)
        relation: Relation = {"attention-nn": "attention", "kl-nn": "kl"}.get(name, "markov")  # type: ignore[assignment]
        flooded = name in ("m2n2", "refined")
        base = Hyperparameters(working_size=PHOTOGRAPH_SIZE, half=False, flood_fill=flooded, relation=relation)
        if preset == "released":
            base = replace(Hyperparameters.released(), flood_fill=flooded)
        if name == "refined":
            base = replace(base, refine=True, least_cells=LEAST_CELLS, despeckle=DESPECKLE)
        chosen = with_values(base, values)
        if chosen.relation != relation:
            raise SettingsError(f"the method decides the relation: choose among {', '.join(FRAMEWORK)}")
        if name == "m2n2-no-flood" and chosen.flood_fill:
            raise SettingsError("m2n2-no-flood with flood fill is m2n2")
        if relation != "markov" and any(getattr(chosen, own) != getattr(base, own) for own in OF_THE_CHAIN):
            raise SettingsError(f"the method {name} has its own temperature, and no {', '.join(OF_THE_CHAIN)}")
        return cls(name, chosen, preset)

    @classmethod
    def parse(cls, fingerprint: Mapping[str, Any]) -> MethodChoice:
        """The method of an earlier run, from ``fingerprint.method`` of its JSON.

        Raises:
            ValueError: It is none.
        """
        name = str(fingerprint["name"])
        if name in FRAMEWORK:
            return cls(name, TypeAdapter(Hyperparameters).validate_python(fingerprint))
        if name not in CLASSICS:
            raise ValueError(f"unknown method {name}")
        return cls(name, None)


def start_method(choice: MethodChoice, load_backbone: Callable[[], Backbone] | None) -> InteractiveMethod:
    """Make a method ready; loads the backbone if one is needed.

    Args:
        choice: Which method.
        load_backbone: Called at most once.

    Raises:
        SettingsError: A backbone is needed and there is none.
        BackboneUnavailable: It cannot be loaded.
    """
    classics: dict[str, Callable[[], InteractiveMethod]] = {
        "grabcut": GrabCut,
        "random-walker": RandomWalker,
        "geodesic": Geodesic,
    }
    if choice.hyperparameters is None:
        return classics[choice.name]()
    if load_backbone is None:
        raise SettingsError(f"the method {choice.name} needs a backbone")
    return SegmenterMethod(Segmenter(load_backbone(), choice.hyperparameters))


@dataclass(frozen=True)
class SegmenterMethod:
    """The framework's methods."""

    segmenter: Segmenter

    def start(self, rgb: NDArray[np.uint8]) -> PhotographSession:
        """Encode the photograph."""
        backbone = self.segmenter.backbone
        with memory_advice(getattr(backbone, "grid", 128), backbone.device):
            return _SegmenterSession(self.segmenter, self.segmenter.encode(rgb))


@dataclass(frozen=True)
class _SegmenterSession:
    segmenter: Segmenter
    state: ImageState

    @property
    def grid(self) -> int | None:
        return self.state.grid[0]

    @property
    def ipf_residual(self) -> float | None:
        relation = self.state.relation
        return relation.transition.residual if isinstance(relation, MarkovRelation) else None

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        return self.segmenter.segment(self.state, clicks).mask
