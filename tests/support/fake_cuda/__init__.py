"""A CUDA device without a card: PyTorch's fake tensors have shape, type and device, but no numbers.

The code under test takes its own branches for CUDA. Tensors of different devices in one operation raise. Every
allocation and every wait for the device is counted.

The guard that ``build_guard`` compiles stands in for CUDA in the whole process, so ``fake_cuda`` belongs in a process
of its own (see ``counted.py``).
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda:0")
_ATEN = torch.ops.aten
_ASKING = (_ATEN._local_scalar_dense.default, _ATEN.item.default, _ATEN.is_nonzero.default)
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.uint8: np.uint8}
_PACKAGE = "/m2n2_backend/"


def build_guard(compiler: str, folder: Path) -> Path:
    """Compile the guard against the PyTorch that is installed."""
    library, installed = folder / "libguard.so", Path(torch.__file__).parent
    command = [compiler, "-std=c++20", "-fPIC", "-shared", str(Path(__file__).with_name("guard.cpp"))]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [f"-I{installed / 'include'}", f"-L{installed / 'lib'}", "-lc10", "-o", str(library)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return library


class FakeCuda(TorchDispatchMode):
    """What happens on the device.

    A number that is asked for is 0, so IPF stops after a sweep. What a kernel holds only while it runs is not seen.

    Attributes:
        live: Bytes of all tensors on the device.
        peak: The most of them since ``restart``.
        waits: Since ``restart``, how often the program waited for the device, by kind and by the module that did:
            ``("ask", "markov")`` for a number or truth value, ``("in", …)`` and ``("out", …)`` for copies.
        truth: The answer to every question for a truth value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.waits: Counter[tuple[str, str]] = Counter()
        self.truth = True
        self._known: set[int] = set()

    def restart(self, truth: bool = True) -> None:
        self.peak = self.live
        self.waits = Counter()
        self.truth = truth

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ASKING:
            if args[0].device == DEVICE:
                self._waited("ask")
            return self.truth if args[0].dtype == torch.bool else 0.0
        if func is _ATEN._to_copy.default:
            source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
            if source.type != target.type:
                self._waited("in" if target.type == DEVICE.type else "out")
        if func is _ATEN.matmul.out:  # only of matrices here; PyTorch's decomposition would write to a copy first
            func = _ATEN.mm.out
        if func.namespace == "aten":
            with self:
                parts = func.decompose(*args, **kwargs)  # inference mode does not split composite operations
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device == DEVICE:
                self._add(leaf.untyped_storage())
        return result

    def _waited(self, kind: str) -> None:
        frame = sys._getframe(1)
        while _PACKAGE not in frame.f_code.co_filename and frame.f_back is not None:
            frame = frame.f_back
        self.waits[kind, Path(frame.f_code.co_filename).stem] += 1

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


class _Functions(TorchFunctionMode):
    """Adds what fake tensors lack: attention without probabilities, as fused kernels have it, and arrays of zeros."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key, value = (*args, *kwargs.values())[:3]
            assert query.device == key.device == value.device, "attention mixes devices"
            assert query.dtype == key.dtype == value.dtype, "attention mixes types"
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        if func is torch.Tensor.numpy and isinstance(args[0], FakeTensor):
            assert args[0].device.type == "cpu", "numpy() of a tensor on the device"
            return np.zeros(tuple(args[0].shape), _NUMPY[args[0].dtype])
        return func(*args, **kwargs)


def _apply(module: torch.nn.Module, change: Callable[[Any], Any], recurse: bool = True) -> torch.nn.Module:
    """``Module._apply`` without swapping tensors, which fake ones do not allow."""
    for own in module.modules():
        for name, parameter in own._parameters.items():
            if parameter is not None:
                own._parameters[name] = torch.nn.Parameter(change(parameter.data), requires_grad=False)
        for name, buffer in own._buffers.items():
            if buffer is not None:
                own._buffers[name] = change(buffer)
    return module


@contextmanager
def fake_cuda(guard: Path) -> Iterator[FakeCuda]:
    """Make ``cuda:0`` a fake device within the body, and every new tensor a fake one."""
    ctypes.CDLL(str(guard), mode=ctypes.RTLD_GLOBAL)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with mock.patch.object(torch.nn.Module, "_apply", _apply), fakes, FakeCuda() as device, _Functions():
        yield device
