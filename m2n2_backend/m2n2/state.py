"""What is kept of one photograph between clicks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.m2n2.attention import AttentionFeatures
from m2n2_backend.m2n2.relations import Relation
from m2n2_backend.m2n2.threshold import Profile
from m2n2_backend.m2n2.upsample import JointBilateral


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


class Sized(Protocol):
    """Whatever knows how much it holds; the answer may change over time."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


S = TypeVar("S", bound=Sized)


class Memo(Generic[S]):
    """Least-recently-used results of one image; safe between threads, bounded in number."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[object, S] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], S]) -> S:
        """The entry of ``key``, made now if it is not there; two threads may both make it, with equal results."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        value = make()
        self.put(key, value)
        return value

    def put(self, key: object, value: S) -> None:
        """Keep an entry, or replace it."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        with self._lock:
            return sum(entry.nbytes for entry in self._entries.values())


@dataclass(frozen=True)
class ImageState:
    """Everything about one photograph that does not depend on clicks, and a memo of what did.

    Attributes:
        size: (H, W) of the photograph.
        grid: (h, w) of the attention.
        relation: Between cells, on the device.
        upsample: JBU operator at working size.
        device: Of ``relation``.
        cells: Memo of h×w maps by start cell.
        clicks: Memo of ``PromptMap`` by pixel at working size.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    relation: Relation
    upsample: JointBilateral
    device: torch.device
    cells: Memo[NDArray[np.float32]] = field(default_factory=lambda: Memo(256))
    clicks: Memo[PromptMap] = field(default_factory=lambda: Memo(48))

    @property
    def working_size(self) -> tuple[int, int]:
        """(H, W) at which the mask is computed."""
        return self.upsample.weights.shape[0], self.upsample.weights.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of matrix, table and memos; it grows with new clicks, to 48 of 2 bytes a pixel and 0.5 MB each."""
        return self.relation.nbytes + self.upsample.nbytes + self.cells.nbytes + self.clicks.nbytes
