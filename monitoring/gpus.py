"""Memory and utilization of this machine's NVIDIA GPUs, read through NVML; nothing where there are none."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU. name: its index, as `cuda:0` counts without CUDA_VISIBLE_DEVICES. utilization: 0..1."""

    name: str
    used_bytes: int
    total_bytes: int
    utilization: float


def read_gpus() -> list[Gpu]:
    """Every GPU that answers now. Some milliseconds at most."""
    nvml, handles = _open()
    found = []
    for index, handle in enumerate(handles):
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except nvml.NVMLError:  # a GPU that fell off its bus, or that is split and has no utilization of its own
            continue
        found.append(Gpu(str(index), int(memory.used), int(memory.total), busy))
    return found


@cache
def _open() -> tuple[Any, Sequence[Any]]:
    try:
        import pynvml
    except ImportError:
        return None, ()
    try:
        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver
        return pynvml, ()
