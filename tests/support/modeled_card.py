"""A simulated graphics card: its tensors lie in the CPU's memory, and are counted as if they lay on a card."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda:0")


class Card(TorchDispatchMode):
    """PyTorch's allocator on a card that other programs use, too.

    What is freed stays with the allocator until ``empty_cache``, or until an allocation would fail; pieces always fit
    together.

    Attributes:
        total: Bytes of the card.
        others: Bytes that other programs have.
        used: Bytes of the tensors on the card that are alive.
        reserved: Bytes that the allocator has.
        peak: Most bytes used since ``reset_peak_memory_stats``.
        failures: Allocations that found no room.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self.others = self.used = self.reserved = self.peak = self.failures = 0
        self.creating = False
        self._known: set[int] = set()

    @property
    def free(self) -> int:
        return self.total - self.others - self.reserved

    def empty_cache(self) -> None:
        self.reserved = self.used

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "aten":
            with self:
                parts = func.decompose(*args, **kwargs)  # inference mode does not split composite operations
            if parts is not NotImplemented:
                return parts
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_card = self.creating or any(self.holds(tensor) for tensor in given)
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if on_card and isinstance(leaf, torch.Tensor) and not any(leaf is tensor for tensor in given):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        if self.used + size > self.reserved + self.free:
            self.failures += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self._known.add(key)
        self.used += size
        self.reserved, self.peak = max(self.reserved, self.used), max(self.peak, self.used)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.used -= size


class _Placed(TorchFunctionMode):
    """Moves tensors to the card and back to the CPU as the code asks."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func in (torch.device, torch._C._nn._parse_to):
            return func(*args, **kwargs)
        devices = [torch.device(each) for each in (*args, *kwargs.values()) if _is_device(each)]
        if name == "cpu" or (name == "to" and devices and devices[0].type == "cpu"):
            if self.card.holds(args[0]):
                return torch.from_numpy(args[0].detach().numpy().copy())  # no operation of PyTorch, so not counted
            return func(*args, **kwargs)
        if not devices or devices[0] != CARD:
            return func(*args, **kwargs)
        args, kwargs = tree_map(lambda each: torch.device("cpu") if _is_device(each) else each, (args, kwargs))
        if name == "to" and not self.card.holds(args[0]):
            kwargs["copy"] = True
        self.card.creating = True
        try:
            return func(*args, **kwargs)
        finally:
            self.card.creating = False


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value in ("cpu", str(CARD)))


@contextmanager
def modeled_card(total: int, patch: pytest.MonkeyPatch) -> Iterator[Card]:
    """Give PyTorch such a card in this thread; ``torch.cuda`` reports its figures."""
    card = Card(total)
    patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (card.free, card.total))
    patch.setattr(torch.cuda, "memory_allocated", lambda device=None: card.used)
    patch.setattr(torch.cuda, "memory_reserved", lambda device=None: card.reserved)
    patch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: card.peak)
    patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: setattr(card, "peak", card.used))
    patch.setattr(torch.cuda, "empty_cache", card.empty_cache)
    patch.setattr(torch.cuda, "get_device_name", lambda device=None: "a modeled card")
    with _Placed(card), card:
        yield card
