"""Every way in which an allocation is said to have failed is known, and nothing else is taken for it."""

from __future__ import annotations

import pytest
import torch

from vlm_backbones.errors import ConfigError
from vlm_backbones.out_of_memory import is_out_of_memory


@pytest.mark.parametrize("error", [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("unable to mmap 8 bytes from file <x>: Cannot allocate memory (12)"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a memory object"),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not execute a primitive"),
], ids=str)  # fmt: skip
def test_a_failed_allocation_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    ValueError("out of memory"),
    ConfigError("align: out of memory with one example a pass."),
], ids=str)  # fmt: skip
def test_other_failures_are_not_taken_for_lack_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)
