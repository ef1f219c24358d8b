"""How large an attention grid the device's memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from m2n2_backend.errors import BackboneUnavailable

GRIDS = (128, 96, 64)
"""Grids tried, largest first; 128 is the paper's (Sec. 4.1)."""

CPU_GRID = 64
"""On a CPU time decides, not memory: the matrix products grow with the fourth power of the grid."""

_MODEL_BYTES = 1717 * 1024**2  # U-Net and VAE encoder in 16-bit
_PIXEL_BYTES = 1280  # VAE encoder: five 16-bit maps of 128 channels at full resolution
_KEPT = 2  # P and a power of it, of one image
_BUILT = 3  # and one more while the power is made; in 16-bit, P beside the attention in 32-bit
_UNCOUNTED = 768 * 1024**2  # the device's context, what kernels hold while they run, pieces that the allocator cuts
_STATES_SHARE = 0.9  # of the free memory, as the allocator cuts it into pieces


def bytes_needed(grid: int, *, half: bool = True) -> int:
    """Free memory that an image takes, the model included: ``peak_bytes``, and what nobody can count beforehand.

    With matrices in 16-bit 5.0 GB at grid 128, 3.7 GB at 96, 3.0 GB at 64.

    Args:
        grid: Cells per side.
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
        half: As of ``bytes_needed``.

    Returns:
        One of the candidates; the last one even if it does not fit, as the estimate is on the safe side.
    """
    return next((grid for grid in candidates if bytes_needed(grid, half=half) <= free_bytes), candidates[-1])


def default_grid(device: torch.device, candidates: Sequence[int] = GRIDS) -> int:
    """Grid where none is asked for: by free memory on an accelerator, by time on a CPU."""
    if device.type == "cpu":
        return CPU_GRID
    return grid_for_memory(free_bytes(device), candidates, half=device.type == "cuda")


def free_bytes(device: torch.device) -> int:
    """Free memory of an accelerator; 0 where the device does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 0


def room_for_states(device: torch.device) -> int:
    """Bytes of an accelerator that matrices of images may fill: what is free, less what a step needs for a while.

    It is asked when everything has run once and nothing is held but the model.
    """
    if device.type != "cuda":
        return free_bytes(device) // 2
    needed = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    torch.cuda.empty_cache()
    return max(0, int(_STATES_SHARE * free_bytes(device)) - needed)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says so; MPS and the CPU allocator raise a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    signs = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


@contextmanager
def memory_advice(grid: int, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into an error that names a smaller grid.

    Raises:
        BackboneUnavailable: The body ran out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = next((candidate for candidate in GRIDS if candidate < grid), max(grid // 2, 8))
        message = f"out of memory on {device} at grid {grid}; try --grid {smaller}"
        raise BackboneUnavailable(message) from error
