"""The methods that can be evaluated: the paper's, its variants, and three classics."""

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
    VIEWED_FROM,
    Hyperparameters,
    RelationName,
    with_values,
)
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.semantic_distance import MarkovDistance
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Click

FRAMEWORK = ("m2n2", "refined", "m2n2-no-flood", "attention-nn", "kl-nn")
"""Methods that need a backbone (Sec. 3 and 8)."""

CLASSICS = ("grabcut", "random-walker", "geodesic")
"""Methods that use only colors."""

METHODS = FRAMEWORK + CLASSICS
"""All names that ``start_method`` knows."""

OF_THE_CHAIN = ("temperature", "tolerance", "max_sweeps", "tau", "max_iterations", "doublings", "half")
"""Hyperparameters that only methods with a Markov chain have."""

PresetName = Literal["ours", "released"]

OF_BOTH_PRESETS = ("m2n2", "m2n2-no-flood")
"""Methods that the released code has too."""


class StartedPhotograph(Protocol):
    """One photograph. Each call gets all clicks; nothing is kept from one call to the next."""

    @property
    def grid(self) -> int | None:
        """Cells per side of the attention grid; None without attention."""
        ...

    @property
    def ipf_residual(self) -> float | None:
        """Largest |row sum - 1| after IPF; None without a Markov chain."""
        ...

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        """The mask of clicks of which at least one is positive, bool [H, W] at the photograph's size."""
        ...


class InteractiveMethod(Protocol):
    """A method that turns clicks into masks."""

    def start(self, rgb: NDArray[np.uint8]) -> StartedPhotograph:
        """Do what depends only on the photograph, ``rgb``, uint8 [H, W, 3]."""
        ...


@dataclass(frozen=True)
class MethodChoice:
    """A method and its hyperparameters; made by :meth:`of`.

    Attributes:
        name: One of ``METHODS``.
        hyperparameters: All choices of the framework; None for a classic.
        preset: Whose answers to the questions that the paper leaves open are used. The backbone has to be loaded with
            the same preset.
    """

    name: str
    hyperparameters: Hyperparameters | None
    preset: PresetName = "ours"

    @classmethod
    def of(cls, name: str | None = None, values: Sequence[str] = (), preset: PresetName = "ours") -> MethodChoice:
        """A method by name, with some of its hyperparameters changed.

        ``refined`` is the service's method; the other methods of the framework are the paper's. All work at the
        photograph's own size, and in 32-bit after the model on any device. Only ``m2n2`` and ``refined`` flood. The
        paper does not say whether its baselines do: on GrabCut with ViT-Tiny they follow the order of its Table 3
        without flood fill (NoC85: m2n2 2.28, m2n2-no-flood 3.46, kl-nn 3.64, attention-nn 5.88), but not with it
        (kl-nn 2.50, attention-nn 3.14).

        Args:
            name: One of ``METHODS``; the service's by default, and the paper's with the preset ``released``.
            values: ``NAME=VALUE`` for fields of :class:`Hyperparameters`; ``scores.edge=false`` drops a factor of
                Eq. 9, ``none`` stands for None.
            preset: ``released`` follows the authors' code and exists for ``OF_BOTH_PRESETS``.

        Raises:
            SettingsError: A name is unknown, or a value is not valid or has no effect.
        """
        if name is None:
            name = "m2n2" if preset == "released" else "refined"
        if name not in METHODS:
            raise SettingsError(f"unknown method {name}: there are {', '.join(METHODS)}")
        if preset == "released" and name not in OF_BOTH_PRESETS:
            raise SettingsError(f"the released code has no {name}: choose among {', '.join(OF_BOTH_PRESETS)}")
        if name in CLASSICS:
            if values:
                raise SettingsError(f"the method {name} does not have the hyperparameters of m2n2")
            return cls(name, None)
        relation: RelationName = {"attention-nn": "attention", "kl-nn": "kl"}.get(name, "markov")  # type: ignore[assignment]
        flooded = name in ("m2n2", "refined")
        base = Hyperparameters(working_size=PHOTOGRAPH_SIZE, half=False, flood_fill=flooded, relation=relation)
        if preset == "released":
            base = replace(Hyperparameters.released(), flood_fill=flooded)
        if name == "refined":
            base = replace(base, refine=True, least_cells=LEAST_CELLS, despeckle=DESPECKLE, views=VIEWED_FROM)
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
            ValueError: There is no such method, or a hyperparameter is not valid.
        """
        name = str(fingerprint["name"])
        if name in FRAMEWORK:
            return cls(name, TypeAdapter(Hyperparameters).validate_python(fingerprint))
        if name not in CLASSICS:
            raise ValueError(f"unknown method {name}")
        return cls(name, None)


def start_method(choice: MethodChoice, load_backbone: Callable[[], Backbone] | None) -> InteractiveMethod:
    """Prepare a method; ``load_backbone`` is called if the method needs a backbone.

    Raises:
        SettingsError: The method needs a backbone, but ``load_backbone`` is None.
        BackboneUnavailable: The backbone cannot be loaded.
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
    """A method of the framework."""

    segmenter: Segmenter

    def start(self, rgb: NDArray[np.uint8]) -> StartedPhotograph:
        """Encode the photograph."""
        backbone = self.segmenter.backbone
        with memory_advice(getattr(backbone, "grid", 128), backbone.device):
            return _SegmenterPhotograph(self.segmenter, self.segmenter.encode(rgb))


@dataclass(frozen=True)
class _SegmenterPhotograph:
    segmenter: Segmenter
    state: ImageState

    @property
    def grid(self) -> int | None:
        return self.state.grid[0]

    @property
    def ipf_residual(self) -> float | None:
        relation = self.state.relation
        return relation.transition.residual if isinstance(relation, MarkovDistance) else None

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        return self.segmenter.segment(self.state, clicks).mask
