"""What an error of a library says: memory ran out, or the device is broken. Nothing else decides this."""

from __future__ import annotations

import torch

from m2n2_backend.errors import M2N2Error

_HOST_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "insufficient memory",
    "std::bad_alloc",  # C++'s own words, which PyTorch passes on as a RuntimeError
)

_MEMORY = (
    *_HOST_MEMORY,
    "out of memory",
    "alloc_failed",  # cuBLAS, cuDNN, cuSOLVER, hipBLAS
    "allocfailed",  # MIOpen
    "status_not_initialized",  # cuBLAS and cuDNN take memory when they are used for the first time
    "cudnn_status_internal_error",  # cuDNN loads kernels when they are needed, and does not say that they do not fit
    "unable to find an engine",  # cuDNN has tried all of them, and each needs more than is free
    "unable to find a valid cudnn algorithm",
    "nvml_success",  # PyTorch asks NVML for the figures of its message, and fails at that
    "invalid buffer size",  # MPS, of a single tensor
)
"""Signs in lower case that memory ran out; the libraries have no common type of error for it."""

_BROKEN = (
    "cuda error",
    "cuda driver error",
    "cudaerror",
    "hip error",
    "hiperror",
    "execution_failed",  # cuDNN, cuBLAS, cuSOLVER, hipBLAS
    "mapping_error",
    "illegal memory access",
    "device-side assert",
    "launch failure",
    "command buffer exited with error",  # MPS
)
"""Signs in lower case that every later call on the device fails, too, until another process uses it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library ran out of memory: the device's, or the host's.

    An error that could mean either this or a broken device counts as out of memory: a device that is broken says so
    at the next call.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return _has(error, _MEMORY)


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether it is the host's memory that ran out, not the device's."""
    return isinstance(error, MemoryError) or _has(error, _HOST_MEMORY)


def is_broken_device(error: BaseException) -> bool:
    """Whether the device can be used no more by this process."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or _has(error, _BROKEN)


def _has(error: BaseException, signs: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return not isinstance(error, M2N2Error) and any(sign in text for sign in signs)
