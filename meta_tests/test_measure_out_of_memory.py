"""Out of memory is told from other errors by the types and phrases that the runtimes declare."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from tritonclient.utils import InferenceServerException

from fixtures.measure.out_of_memory import is_out_of_memory

OnnxRuntimeError = onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:73] . DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (OnnxRuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 1073741824"), True),
        (OnnxRuntimeError("CUDA failure 2: out of memory"), True),
        (InferenceServerException("onnx runtime error 6: CUDA failure 2: out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (OnnxRuntimeError("Non-zero status code returned while running Conv node"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
    follow_up = RuntimeError("capture failed")
    follow_up.__context__ = error
    assert is_out_of_memory(follow_up) is is_memory
