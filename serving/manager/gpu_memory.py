"""Whether there is memory for the engines of a version on the GPUs; the rules are those of the host's memory.

Nothing is bounded before one engine on a GPU has told what it holds there.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from monitoring.gpus import Gpu
from serving.manager.engine_process import EngineProcess
from serving.manager.managed_version import ManagedVersion, ManagedVersions
from serving.manager.memory_budget import Footprint, MemoryAdmission, Room, Start, admit, both, estimate_growth
from serving.manager.residency import Resident


def gpu_bounds(
    gpus: Iterable[Gpu], share: float, given_bytes: int, environ: Mapping[str, str] = os.environ
) -> list[int]:
    """What engines may take together on each GPU, in CUDA's order.

    share: of a GPU's memory; given_bytes: instead of that, unless it is 0.
    """
    totals = {gpu.name: gpu.total_bytes for gpu in gpus}
    visible = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    order = visible if visible != [""] and set(visible) <= totals.keys() else list(totals)
    return [given_bytes or int(share * totals[name]) for name in order]


def admit_on_gpus(
    held: ManagedVersion,
    versions: ManagedVersions,
    evictable: Sequence[Resident],
    later: Sequence[Resident],
    devices: Sequence[str],
    bounds: Sequence[int],
    now: float,
) -> MemoryAdmission:
    """Whether the engines of a version, one for each of `devices`, may start on the GPUs. bounds: see `gpu_bounds`.

    evictable, later: the versions that may leave for it, now and later on.
    """
    others = [other for other in versions.values() if other is not held]
    measured = [
        Footprint(engine.report.device_bytes, other.weights_bytes)
        for other in others
        for engine in other.engines
        if engine.report.device_bytes
    ]
    if not measured:
        return Start()
    is_leaving = any(other.leaves_soon(now) for other in others)
    slow = [other for other in others if other.state == "draining" and not other.leaves_soon(now)]
    admission: MemoryAdmission = Start()
    for number, bound in enumerate(bounds):
        need = sum(_gpu_of(device) == number for device in devices) * estimate_growth(held.weights_bytes, measured)
        loading = [
            estimate_growth(other.weights_bytes, measured)
            for other in others
            for engine in other.engines
            if not engine.report.device_bytes and engine.is_running() and _gpu_of(engine.order.device) == number
        ]
        taken = sum(_bytes_on(other.engines, number) for other in others) + sum(loading)
        by = f"on the GPU cuda:{number}, by HEADWAITER_GPU_MEMORY_BYTES"
        room = Room(
            sys.maxsize,
            is_leaving=is_leaving,
            bound_bytes=bound,
            taken_bytes=taken,
            is_loading=bool(loading),
            bound_by=by,
        )
        frees = [(found.key, _bytes_on(versions[found.key].engines, number)) for found in evictable]
        later_bytes = sum(_bytes_on(versions[found.key].engines, number) for found in later)
        later_bytes += sum(_bytes_on(other.engines, number) for other in slow)
        admission = both(admission, admit(need, room, [each for each in frees if each[1]], later_bytes))
    return admission


def _bytes_on(engines: Iterable[EngineProcess], number: int) -> int:
    return sum(engine.report.device_bytes for engine in engines if _gpu_of(engine.report.device) == number)


def _gpu_of(device: str) -> int | None:
    """The GPU's number in CUDA's order, None for no GPU. "auto" is the first one, where there is one."""
    if device.startswith("cpu"):
        return None
    return int(device.partition(":")[2] or 0)
