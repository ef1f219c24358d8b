"""A cache in memory: bounded in bytes, its keys among them, least recently used first."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar

from cachetools import Cache, LRUCache

ENTRY_BYTES = 512
"""What an entry takes beside its own bytes and its key's: headers of objects, and its places in the tables here."""

Key: TypeAlias = str | bytes
"""Short ones: what is long is hashed first (see ``memo_keys``), or it would be hashed and compared at every look."""


class Sized(Protocol):
    """Whatever knows how much it holds."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


V = TypeVar("V", bound=Sized)


class ByteCache(Generic[V]):
    """Entries by key, evicted from the least recently used on once all of them take more than ``limit`` bytes.

    The newest entries always stay, or nothing could be worked on that is larger than the limit. Safe between threads.

    Attributes:
        limit: In bytes.
        hits: Entries that ``get`` found.
        misses: Those that it did not.
        evictions: Entries let go.
    """

    def __init__(self, limit: int, size: Callable[[V], int] | None = None) -> None:
        """Set up an empty cache.

        Args:
            limit: In bytes.
            size: What counts of an entry, if not all of it with its key and ``ENTRY_BYTES``.
        """
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        # Bounded by `put`, which lets the newest stay; the library's own bound would refuse what is larger than it.
        self._entries: LRUCache[Key, tuple[V, int]] = LRUCache(math.inf, getsizeof=lambda kept: kept[1])
        self._size = size
        self._lock = threading.Lock()

    def get(self, key: Key) -> V | None:
        """The entry of ``key``, now the most recently used one, or None."""
        with self._lock:
            kept = self._entries.get(key)
            self.hits += kept is not None
            self.misses += kept is None
            return None if kept is None else kept[0]

    def put(self, key: Key, entry: V, keep: int = 1) -> None:
        """Keep an entry, or replace it, and evict others if that is too much.

        Args:
            key: Of the entry.
            entry: Measured now: one that has grown since has to be put again.
            keep: So many of the most recently used entries stay whatever their size.
        """
        size = entry.nbytes + len(key) + ENTRY_BYTES if self._size is None else self._size(entry)
        with self._lock:
            self._entries[key] = entry, size
            self._evict(0, keep)

    def make_room(self, size: int, keep: int = 0) -> None:
        """Evict until so many bytes more would fit, or ``keep`` entries are left: before something large is built."""
        with self._lock:
            self._evict(size, keep)

    def evict_oldest(self) -> None:
        """Let go of the least recently used entry."""
        with self._lock:
            self._entries.popitem()
            self.evictions += 1

    def values(self) -> list[V]:
        """All entries, none of them used by this."""
        with self._lock:
            return [Cache.__getitem__(self._entries, key)[0] for key in self._entries]

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self.evictions += len(self._entries)
            self._entries.clear()

    def _evict(self, more: int, keep: int) -> None:
        while self._entries.currsize + more > self.limit and len(self._entries) > keep:
            self._entries.popitem()
            self.evictions += 1

    @property
    def nbytes(self) -> int:
        """Bytes of all entries with their keys, as they were when they were put."""
        return int(self._entries.currsize)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
