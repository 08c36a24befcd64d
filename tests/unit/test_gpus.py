"""Which GPUs are asked for their memory, by a driver that is made up."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from runner.train.gpus import describe_gpus, free_gpu_memory

GIB = 1 << 30
FREE = {"GPU-a": 70 * GIB, "GPU-b": 20 * GIB, "MIG-c": 9 * GIB}
NUMBERED = ("GPU-a", "GPU-b")


class NVMLError(Exception):
    pass


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(NUMBERED),
        nvmlDeviceGetHandleByIndex=lambda index: NUMBERED[index],
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(free=FREE[handle], total=80 * GIB),
        nvmlDeviceGetName=lambda handle: f"card {handle}",
        nvmlDeviceGetCudaComputeCapability=lambda handle: (9, 0) if handle == "GPU-a" else (7, 5),
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlSystemGetCudaDriverVersion_v2=lambda: 13020,
    )
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


@pytest.mark.parametrize(
    ("visible", "free"),
    [(None, 20), ("0", 70), ("1,0", 20), ("GPU-a", 70), ("GPU-a, MIG-c", 9), ("-1", None), ("", None)],
)
def test_the_visible_gpu_with_the_least_counts(
    driver: Any, monkeypatch: pytest.MonkeyPatch, visible: str | None, free: int | None
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_gpu_memory() == (None if free is None else free * GIB)


def test_without_library_or_driver_nothing_is_known(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise NVMLError

    driver.nvmlInit = fails
    assert (free_gpu_memory(), describe_gpus()) == (None, [])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (free_gpu_memory(), describe_gpus()) == (None, [])


@pytest.mark.usefixtures("driver")
def test_doctor_tells_of_driver_and_cards() -> None:
    assert describe_gpus() == [
        "driver 580.1, for CUDA up to 13.2",
        "card GPU-a: 70.0 of 80.0 GiB free, compute capability 9.0 (float32, TF32, bfloat16)",
        "card GPU-b: 20.0 of 80.0 GiB free, compute capability 7.5 (float32)",
    ]
