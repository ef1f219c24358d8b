"""A cache tier in memory: bounded in bytes, least recently used first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from m2n2_backend.m2n2.state import Sized

V = TypeVar("V", bound=Sized)


class ByteCache(Generic[V]):
    """Entries by key, evicted from the least recently used on once they hold more than ``limit`` bytes.

    The newest entry always stays, or nothing could be worked on that is larger than the limit. One thread only.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._entries: OrderedDict[str, V] = OrderedDict()

    def get(self, key: str) -> V | None:
        """The entry of ``key``, now the most recently used one, or None."""
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return entry

    def put(self, key: str, entry: V) -> None:
        """Keep an entry, or replace it, and evict others if that is too much."""
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self.trim()

    def trim(self) -> None:
        """Evict; also needed after entries grew by themselves."""
        held = self.nbytes
        while held > self.limit and len(self._entries) > 1:
            _, entry = self._entries.popitem(last=False)
            held -= entry.nbytes
            self.evictions += 1

    def clear(self) -> None:
        """Let go of everything."""
        self.evictions += len(self._entries)
        self._entries.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.nbytes for entry in self._entries.values())

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
