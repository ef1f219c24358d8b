"""A cache in memory: bounded in bytes, its keys among them, least recently used first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import chain
from typing import Generic, Protocol, TypeAlias, TypeVar

ENTRY_BYTES = 512
"""Bytes of an entry beside its own and its key's: headers of objects, and its places in the tables here."""

Key: TypeAlias = str | bytes
"""A short key: long ones are hashed first (see ``places``), or they would be hashed and compared at every look-up."""


class Sized(Protocol):
    """An object that knows how many bytes it holds."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


V = TypeVar("V", bound=Sized)


class ByteCache(Generic[V]):
    """Entries by key, evicted from the least recently used on once all of them take more than ``limit`` bytes.

    The newest entries always stay, so that an entry larger than the limit can be worked on. Safe between threads.

    Attributes:
        limit: Bytes of all entries together.
        hits: Calls of ``get`` that found an entry.
        misses: Calls of ``get`` that found none.
        evictions: Entries that were removed.
    """

    def __init__(self, limit: int, size: Callable[[V], int] | None = None, *, spared: float = 0.0) -> None:
        """Set up an empty cache.

        Args:
            limit: Bytes of all entries together.
            size: Bytes that count for an entry; by default its own, its key's and ``ENTRY_BYTES``.
            spared: Share of the limit, in [0, 1], for entries that were requested again: entries that are used
                once, however many, do not displace them.
        """
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._size = size
        self._spared = spared
        self._lock = threading.Lock()
        # With their sizes, the least recently used first.
        self._once: OrderedDict[Key, tuple[V, int]] = OrderedDict()
        self._again: OrderedDict[Key, tuple[V, int]] = OrderedDict()
        self._nbytes = 0

    def get(self, key: Key) -> V | None:
        """The entry of ``key``, now the most recently used one, or None."""
        with self._lock:
            kept = self._again.pop(key, None) or self._once.pop(key, None)
            self.hits += kept is not None
            self.misses += kept is None
            if kept is None:
                return None
            (self._again if self._spared else self._once)[key] = kept
            while len(self._again) > 1 and sum(size for _, size in self._again.values()) > self._spared * self.limit:
                oldest, entry = self._again.popitem(last=False)
                self._once[oldest] = entry
            return kept[0]

    def put(self, key: Key, entry: V, keep: int = 1) -> None:
        """Keep an entry, or replace it, and evict others if the limit is exceeded.

        Args:
            key: A short name, see ``Key``.
            entry: It is measured now; an entry that has grown must be put again.
            keep: Number of entries that stay whatever their size: this one and the most recently used ones.
        """
        size = entry.nbytes + len(key) + ENTRY_BYTES if self._size is None else self._size(entry)
        with self._lock:
            entries = self._again if key in self._again else self._once
            _, before = entries.pop(key, (None, 0))
            entries[key] = entry, size
            self._nbytes += size - before
            self._evict(0, keep, key)

    def make_room(self, size: int, keep: int = 0) -> None:
        """Evict until ``size`` more bytes fit, or ``keep`` entries are left, before something large is built."""
        with self._lock:
            self._evict(size, keep)

    def evict_oldest(self) -> None:
        """Remove the least recently used entry."""
        with self._lock:
            self._drop(next(chain(self._once, self._again)))

    def all_keys(self) -> list[Key]:
        """All keys; this does not count as a use."""
        with self._lock:
            return list(chain(self._once, self._again))

    def values(self) -> list[V]:
        """All entries; this does not count as a use."""
        with self._lock:
            return [entry for entry, _ in chain(self._once.values(), self._again.values())]

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self.evictions += len(self)
            self._once.clear()
            self._again.clear()
            self._nbytes = 0

    def _evict(self, more: int, keep: int, newest: Key | None = None) -> None:
        while self._nbytes + more > self.limit and len(self) > keep:
            self._drop(next(key for key in chain(self._once, self._again) if key != newest or len(self) == 1))

    def _drop(self, key: Key) -> None:
        _, size = (self._once if key in self._once else self._again).pop(key)
        self._nbytes -= size
        self.evictions += 1

    @property
    def nbytes(self) -> int:
        """Bytes of all entries with their keys, as they were when they were put."""
        return self._nbytes

    def __contains__(self, key: Key) -> bool:
        with self._lock:  # an entry may be moving from one to the other
            return key in self._once or key in self._again

    def __len__(self) -> int:
        return len(self._once) + len(self._again)
