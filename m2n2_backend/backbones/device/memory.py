"""What fits into a device's memory: the attention grid, and prepared images beside the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from m2n2_backend.backbones.device.errors import is_out_of_host_memory, is_out_of_memory
from m2n2_backend.errors import BackboneUnavailable, OutOfMemory

GRIDS = (128, 96, 64)
"""Grids tried, largest first; 128 is the paper's (Sec. 4.1)."""

CPU_GRID = 64
"""On a CPU time decides, not memory: the matrix products grow with the fourth power of the grid."""

_METAL_BYTES = 2**32  # "total bytes of NDArray > 2**32" is the assertion that fails beyond
_METAL_GRID = 96  # sd2 (5 heads) passes that at 122, sd1 (8 heads) at 108, scores in 32-bit

_MODEL_BYTES = 1717 * 1024**2  # U-Net and VAE encoder in 16-bit
_PIXEL_BYTES = 1280  # VAE encoder: five 16-bit maps of 128 channels at full resolution
_KEPT = 2  # P and a power of it, of one image
_BUILT = 3  # and one more while the power is made; in 16-bit, P beside the attention in 32-bit
_UNCOUNTED = 768 * 1024**2  # the device's context, what kernels hold while they run, pieces that the allocator cuts

_LEFT_TO_OTHERS = {"cuda": 8, "mps": 2}
"""The reciprocal of the share of a device's memory that is left alone.

An eighth of a card holds what PyTorch does not count: each process's context (0.3 to 0.5 GB, assumed) and what the
allocator cuts to pieces. On 24 GB it also holds a second program of this package, such as ``segment`` beside the
server (3.3 GB, counted and not measured on a card). On MPS it is half of what is recommended: the whole machine
shares that memory, and PyTorch reports neither what others take nor what a step took.
"""

LOWERED_SECONDS = 600.0
"""Where memory ran out although it had looked large enough, fewer images are held for so long."""


def bytes_needed(grid: int, *, half: bool = True) -> int:
    """Free memory that an image takes, the model included: ``peak_bytes``, and what cannot be counted beforehand.

    With matrices in 16-bit 5.0 GB at grid 128, 3.7 GB at 96, 3.0 GB at 64, counted and not measured on a card.

    Args:
        half: Whether matrices are kept in 16-bit, as CUDA has them.
    """
    return peak_bytes(grid, half=half) + _UNCOUNTED


def peak_bytes(grid: int, *, half: bool) -> int:
    """All tensors at the peak: the model, and either its activations beside an earlier image's matrices or new ones.

    Args:
        grid: Cells per side; matrices are n x n, n = grid².
        half: Whether matrices are kept in 16-bit.
    """
    matrix = (2 if half else 4) * grid**4
    return _MODEL_BYTES + max(_PIXEL_BYTES * (8 * grid) ** 2 + _KEPT * matrix, _BUILT * matrix)


def grid_for_memory(free_bytes: int, candidates: Sequence[int] = GRIDS, *, half: bool = True) -> int:
    """Largest grid whose ``bytes_needed`` fit.

    Args:
        free_bytes: Free before the model is loaded.
        candidates: Largest first.

    Returns:
        One of the candidates; the last one even if it does not fit, as the estimate is on the safe side.
    """
    return next((grid for grid in candidates if bytes_needed(grid, half=half) <= free_bytes), candidates[-1])


def default_grid(device: torch.device, candidates: Sequence[int] = GRIDS) -> int:
    """Grid where none is asked for: by free memory on an accelerator, on MPS 96 at most, by time on a CPU."""
    if device.type == "cpu":
        return CPU_GRID
    fit = [grid for grid in candidates if device.type != "mps" or grid <= _METAL_GRID]
    return grid_for_memory(free_bytes(device), fit, half=device.type == "cuda")


def refuse_large_scores(device: torch.device, heads: int, grid: int) -> None:
    """Refuse a grid at which Metal ends the process, with no error that could be caught.

    On MPS, PyTorch forms the scores of an attention as one tensor.

    Args:
        heads: The most that one of its self-attentions has.

    Raises:
        BackboneUnavailable: The scores do not fit into one tensor of Metal.
    """
    size = 4 * heads * grid**4
    if device.type == "mps" and size > _METAL_BYTES:
        raise BackboneUnavailable(
            f"at grid {grid} the attention scores take {size / 1e9:.1f} GB, and a tensor of Metal takes 4.3 at most: "
            f"choose --grid {_METAL_GRID}"
        )


class Memory(NamedTuple):
    """Bytes of an accelerator's memory.

    Attributes:
        free: What no process has, and what this process's allocator holds without using it.
        used: What this process's tensors take.
    """

    free: int
    used: int
    total: int


def memory_of(device: torch.device) -> Memory | None:
    """The memory of an accelerator as it is now; None where the device does not tell."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used = torch.cuda.memory_allocated(device)
        return Memory(free + torch.cuda.memory_reserved(device) - used, used, total)
    if device.type == "mps":
        used, total = torch.mps.current_allocated_memory(), torch.mps.recommended_max_memory()
        return Memory(total - used, used, total)
    return None


def free_bytes(device: torch.device) -> int:
    """Free memory of an accelerator; 0 where the device does not tell."""
    memory = memory_of(device)
    return 0 if memory is None else memory.free


def release(device: torch.device) -> None:
    """Give what this process's allocator holds without using it back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class RoomForStates:
    """How many bytes the prepared images of one process may take of a device.

    Where no number is given the device is measured at each question, as other programs come and go, other workers
    load later, and a model whose weights are widened grows. The images get what is free or theirs already, without

    - what a step (the model, or another image's matrix) was seen to take for a while, once for each worker,
    - the part that is left to others, see ``_LEFT_TO_OTHERS``;

    and with their worker's model no more than the worker's share of the device, which holds before the others load.

    Attributes:
        share: This worker's part of the device, 0 to 1.
        need: Bytes that a step took at most for a while.
    """

    def __init__(
        self, device: torch.device, given: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Look at nothing yet.

        Args:
            device: Where the images' matrices are.
            given: Bytes, where they are not to be measured.
            clock: In seconds.
        """
        self.share = 1.0
        self.need = 0
        self._device = device
        self._given = given
        self._clock = clock
        self._lowered_to = 0
        self._lowered_until = clock()

    @property
    def is_lowered(self) -> bool:
        """Whether memory ran out lately."""
        return self._clock() < self._lowered_until

    def limit(self, held: int) -> int:
        """Bytes that the images may take from now on.

        Args:
            held: Bytes that they take now.
        """
        limit = self._given if self._given is not None else max(0, held + self._more())
        return min(limit, self._lowered_to) if self.is_lowered else limit

    def ran_out(self, held: int, state: int) -> None:
        """Memory ran out, so there is less of it than it looks: hold fewer images for ``LOWERED_SECONDS``.

        Args:
            held: Bytes that the images took.
            state: Bytes of one image.
        """
        if held:  # else they were not the cause
            self._lowered_to = max(0, held - max(self.need, state))
            self._lowered_until = self._clock() + LOWERED_SECONDS

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure what the body takes of the device for a while."""
        if self._device.type != "cuda":
            yield
            return
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        try:
            yield
        finally:
            self.need = max(self.need, torch.cuda.max_memory_allocated(self._device) - before)

    def _more(self) -> int:
        """Bytes that the images may take beside those that they take now; negative where they are to shrink."""
        memory = memory_of(self._device)
        if memory is None:
            return 0
        left = memory.total / _LEFT_TO_OTHERS[self._device.type]
        of_free = memory.free - self.need / self.share - left
        of_share = self.share * (memory.total - left) - self.need - memory.used
        return int(min(of_free, of_share))


@contextmanager
def memory_advice(grid: int, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into an error that names a smaller grid.

    Raises:
        OutOfMemory: The body ran out of memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        smaller = next((candidate for candidate in GRIDS if candidate < grid), max(grid // 2, 8))
        where = "cpu" if is_out_of_host_memory(error) else device
        raise OutOfMemory(f"out of memory on {where} at grid {grid}; try --grid {smaller}") from error
