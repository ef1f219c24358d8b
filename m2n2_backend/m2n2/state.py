"""The state of one photograph, which is kept between clicks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.paper.attention import AttentionFeatures
from m2n2_backend.m2n2.paper.threshold import Profile
from m2n2_backend.m2n2.paper.upsample import JointBilateral
from m2n2_backend.m2n2.places import Point, Start
from m2n2_backend.m2n2.refine.object_cut import CoarseGraph
from m2n2_backend.m2n2.refine.steps import Refinement
from m2n2_backend.m2n2.semantic_distance import SemanticDistance
from m2n2_backend.m2n2.views.looks import Look
from m2n2_backend.m2n2.views.view import View

StartRule: TypeAlias = Callable[[Point, tuple[int, int], tuple[int, int]], Start]
"""A click's pixel, working size (H, W) and grid (h, w) → where its chain starts."""


@dataclass(frozen=True)
class EncodedImage:
    """The model's output for one photograph, and all else that must be kept to never run it again.

    Attributes:
        size: (H, W) of the photograph.
        features: Queries and keys.
        guide: The photograph at working size, uint8 [H', W', 3].
    """

    size: tuple[int, int]
    features: AttentionFeatures
    guide: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes of features and guide."""
        return self.features.nbytes + self.guide.nbytes

    def to(self, device: torch.device | str) -> EncodedImage:
        """Copy the features to another device."""
        return EncodedImage(self.size, self.features.to(device), self.guide)


@dataclass(frozen=True)
class PromptMap:
    """The contribution of one click, which does not depend on the others.

    Attributes:
        levels: M', uint16 [H, W] at working size.
        step: Unit of a level.
        profile: Scores of all thresholds.
    """

    levels: NDArray[np.uint16]
    step: float
    profile: Profile

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.levels.nbytes + self.profile.area.nbytes + self.profile.edge.nbytes


MAP_BYTES = 96 * 1024**2
"""Bytes of one image's maps of clicks, about 2 MB each at 1024×768; those of the latest request stay in any case."""

CELL_BYTES = 16 * 1024**2
"""Bytes of one image's maps of cells, 6 kB each at grid 40 and 64 kB at grid 128."""

STEP_BYTES = 16 * 1024**2
"""Bytes of one image's refined masks, two bits a pixel for each prefix of clicks: 85 prefixes at 1024×768."""


LOOK_BYTES = 256 * 1024
"""Bytes of what was seen in one photograph's views: about 1 kB for each object."""


@dataclass(frozen=True)
class Views:
    """The views of a photograph in which an object may be small.

    Attributes:
        size: (H, W) of the photograph.
        state_of: The state of a view, from a memory of its own or made now. It may raise any error of its maker.
        looks: Memo of what was seen, by view and first prompts: all that the choice of a view needs.
    """

    size: tuple[int, int]
    state_of: Callable[[View], ImageState]
    looks: ByteCache[Look] = field(default_factory=lambda: ByteCache(LOOK_BYTES))


@dataclass(frozen=True)
class ImageState:
    """Everything about one photograph that does not depend on clicks, and memos of what does.

    Attributes:
        size: (H, W) of the photograph.
        grid: (h, w) of the attention.
        relation: Semantic distance between cells, on the device.
        upsample: JBU operator at working size.
        start: Where a click's chain starts.
        guide: The photograph at working size, uint8 [H', W', 3]; the encoded image holds the same array.
        copy: Graph of the guide, if the method cuts whole objects.
        cells: Memo of h×w maps by where their chain starts; all memos have the keys of ``places``.
        clicks: Memo of each click's contribution by place: a ``PromptMap``, or what another rule makes of the map.
        steps: Memo of the refined masks by the prompts in their order.
        views: Windows that are encoded for themselves; None if the photograph is only looked at as a whole.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    relation: SemanticDistance
    upsample: JointBilateral
    device: torch.device
    start: StartRule
    guide: NDArray[np.uint8]
    copy: CoarseGraph | None = None
    cells: ByteCache[NDArray[np.float32]] = field(default_factory=lambda: ByteCache(CELL_BYTES))
    clicks: ByteCache[Any] = field(default_factory=lambda: ByteCache(MAP_BYTES))
    steps: ByteCache[Refinement] = field(default_factory=lambda: ByteCache(STEP_BYTES))
    views: Views | None = None

    @property
    def working_size(self) -> tuple[int, int]:
        """(H, W) at which the mask is computed."""
        return self.upsample.weights.shape[0], self.upsample.weights.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of matrix, table, coarse graph and memos with their keys; it grows with new clicks."""
        copy = self.copy.nbytes if self.copy else 0
        return self.relation.nbytes + self.upsample.nbytes + copy + self.memo_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes of the matrix, which alone is on the device."""
        return self.relation.nbytes

    @property
    def memo_bytes(self) -> int:
        """Bytes of the memos with their keys, which grow with new clicks."""
        return self.cells.nbytes + self.clicks.nbytes + self.steps.nbytes
