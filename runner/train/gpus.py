"""NVIDIA's GPUs as their driver tells of them, through NVML: TensorFlow does not say how much of their memory is free.

Without `nvidia-ml-py` (the extra `gpu`), or a driver, nothing is known.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def free_gpu_memory() -> int | None:
    """Bytes that are free on the visible GPU that has least; None where nobody tells."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        return min((int(nvml.nvmlDeviceGetMemoryInfo(each).free) for each in _visible(nvml)), default=None)


def describe_gpus() -> list[str]:
    """A line for the driver and one for each visible GPU: name, memory, compute capability, what it computes fast."""
    with _nvml() as nvml:
        if nvml is None:
            return []
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        lines = [f"driver {nvml.nvmlSystemGetDriverVersion()}, for CUDA up to {cuda // 1000}.{cuda % 1000 // 10}"]
        for each in _visible(nvml):
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(each)
            memory = nvml.nvmlDeviceGetMemoryInfo(each)
            precisions = "float32, TF32, bfloat16" if major >= 8 else "float32"
            lines.append(
                f"{nvml.nvmlDeviceGetName(each)}: {memory.free / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, "
                f"compute capability {major}.{minor} ({precisions})"
            )
        return lines


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVML while it is open; None where it is not to be had."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        yield None
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _visible(nvml: Any) -> list[Any]:
    """Handles of the GPUs that CUDA shows this process, by number or by UUID; of MIG slices, too."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return [
        nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
        for name in filter(None, (part.strip() for part in named.split(",")))
        if name != "-1"
    ]
