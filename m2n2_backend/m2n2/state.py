"""What is kept of one photograph between clicks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.paper.attention import AttentionFeatures
from m2n2_backend.m2n2.paper.threshold import Profile
from m2n2_backend.m2n2.paper.upsample import JointBilateral
from m2n2_backend.m2n2.refine.object_cut import CoarseGraph
from m2n2_backend.m2n2.refine.steps import Refinement
from m2n2_backend.m2n2.released.steps import RankedMap
from m2n2_backend.m2n2.semantic_distance import SemanticDistance


@dataclass(frozen=True)
class EncodedImage:
    """What the model says of one photograph, and all that has to be kept to never ask it again.

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
        """The same with its features on another device."""
        return EncodedImage(self.size, self.features.to(device), self.guide)


@dataclass(frozen=True)
class PromptMap:
    """What one click contributes, whatever the other clicks are.

    Attributes:
        levels: M', uint16 [H, W] at working size.
        step: Unit of a level.
        profile: Of all thresholds.
    """

    levels: NDArray[np.uint16]
    step: float
    profile: Profile

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.levels.nbytes + self.profile.area.nbytes + self.profile.edge.nbytes


MAP_BYTES = 96 * 1024**2
"""Of one image's maps of clicks, of about 2 MB each at 1024×768; those of the latest request stay in any case."""

CELL_BYTES = 16 * 1024**2
"""Of one image's maps of cells, of 6 kB each at grid 40 and 64 kB at grid 128."""

STEP_BYTES = 16 * 1024**2
"""Of one image's refined masks, of two bits a pixel for each prefix of clicks: 85 at 1024×768."""


@dataclass(frozen=True)
class ImageState:
    """Everything about one photograph that does not depend on clicks, and a memo of what did.

    Attributes:
        size: (H, W) of the photograph.
        grid: (h, w) of the attention.
        relation: Between cells, on the device.
        upsample: JBU operator at working size.
        device: Of ``relation``.
        guide: The photograph at working size, uint8 [H', W', 3]; the encoded image holds the same array.
        copy: Of the guide, where the method cuts whole objects.
        cells: Memo of h×w maps by where their chain starts; all memos have the keys of ``memo_keys``.
        clicks: Memo of ``PromptMap`` by place at working size.
        ranked: Likewise, of the released rules.
        steps: Memo of the refined masks by the prompts in their order.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    relation: SemanticDistance
    upsample: JointBilateral
    device: torch.device
    guide: NDArray[np.uint8]
    copy: CoarseGraph | None = None
    cells: ByteCache[NDArray[np.float32]] = field(default_factory=lambda: ByteCache(CELL_BYTES))
    clicks: ByteCache[PromptMap] = field(default_factory=lambda: ByteCache(MAP_BYTES))
    ranked: ByteCache[RankedMap] = field(default_factory=lambda: ByteCache(MAP_BYTES))
    steps: ByteCache[Refinement] = field(default_factory=lambda: ByteCache(STEP_BYTES))

    @property
    def working_size(self) -> tuple[int, int]:
        """(H, W) at which the mask is computed."""
        return self.upsample.weights.shape[0], self.upsample.weights.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of matrix, table, small copy and memos with their keys; it grows with new clicks."""
        copy = self.copy.nbytes if self.copy else 0
        return self.relation.nbytes + self.upsample.nbytes + copy + self.memo_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes of the matrix, which alone is on the device."""
        return self.relation.nbytes

    @property
    def memo_bytes(self) -> int:
        """Bytes of the memos with their keys, which grow with new clicks."""
        return self.cells.nbytes + self.clicks.nbytes + self.ranked.nbytes + self.steps.nbytes
