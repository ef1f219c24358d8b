"""Which errors of libraries mean that memory ran out, and which that the device is broken."""

from __future__ import annotations

import cv2
import pytest
import torch

from m2n2_backend.backbones.device.errors import is_broken_device, is_out_of_host_memory, is_out_of_memory
from m2n2_backend.errors import InvalidImage

DEVICE_MEMORY = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 640.00 MiB. GPU 0 has a total capacity of 7.79 GiB"
    ),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 5.05 GB, other allocations: 3.97 GB, max allowed: 9.07 GB)"
    ),
    RuntimeError("Invalid buffer size: 19.38 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("miopenStatusAllocFailed"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":830, please'),
    RuntimeError('NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL ASSERT FAILED at "../c10/cuda/CUDA"'),
]
HOST_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes."),
    OSError(12, "Cannot allocate memory"),
    RuntimeError("std::bad_alloc"),
    cv2.error("OpenCV(4.11.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 3 bytes"),
]
BROKEN = [
    RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError(
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"
    ),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART"),
    RuntimeError("cuDNN error: CUDNN_STATUS_MAPPING_ERROR"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("HIP error: an illegal memory access was encountered"),
    RuntimeError(
        "merge_sort: failed to synchronize: cudaErrorIllegalAddress: an illegal memory access was encountered"
    ),
    RuntimeError("Error: command buffer exited with error status."),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    InvalidImage("photograph out of memory.png is not an image"),
    ValueError("grid must be positive"),
    FileNotFoundError(2, "No such file or directory"),
]


@pytest.mark.parametrize("error", [*DEVICE_MEMORY, *HOST_MEMORY], ids=str)
def test_an_error_that_means_too_little_memory_is_recognized_and_is_not_a_broken_device(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_broken_device(error)
    assert is_out_of_host_memory(error) == (error in HOST_MEMORY)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_an_error_after_which_the_device_cannot_be_used_is_recognized(error: Exception) -> None:
    assert is_broken_device(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_are_neither(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_broken_device(error)


def test_what_really_runs_out_of_memory_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_host_memory(caught.value)


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this PyTorch has no type for a device's errors")
def test_pytorchs_own_type_for_a_devices_errors_is_a_broken_device_unless_it_says_memory() -> None:
    assert is_broken_device(torch.AcceleratorError("the device is lost"))
    assert not is_broken_device(torch.AcceleratorError("CUDA error: out of memory"))
