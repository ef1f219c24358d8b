"""Device memory counted without a device: what every operation allocates, on tensors that hold no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
_ATEN = torch.ops.aten
_ASKING = (_ATEN._local_scalar_dense.default, _ATEN.item.default, _ATEN.is_nonzero.default)


class Counted(TorchDispatchMode):
    """Bytes of all tensors on the device that are alive, and the most there were since ``restart``.

    A number that is asked for is 0, a truth value True: IPF stops after a sweep, all values are finite. What a kernel
    holds only while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ASKING and args[0].device == DEVICE:
            return args[0].dtype == torch.bool
        if func is _ATEN._to_copy.default and args[0].device == DEVICE and kwargs.get("device", DEVICE) != DEVICE:
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func.namespace == "aten":
            with self:
                parts = func.decompose(*args, **kwargs)  # in inference mode composite operations come whole
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device == DEVICE:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as an accelerator's fused kernels hold it: without probabilities."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like((*args, *(kwargs or {}).values())[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_memory() -> Iterator[Counted]:
    with _FusedAttention(), Counted() as counted:
        yield counted
