"""The cores and the memory that a server may use: the machine's, or less where the process is limited.

Thread counts, front processes and caches are sized by these limits, not by the machine.
"""

import math
import os
import re
import resource
from collections.abc import Mapping
from functools import cache

import msgspec
import psutil

from serving.runtime.control_groups import ControlGroups

MACHINE, AFFINITY, GROUP, LOKY, PROCESS = "machine", "CPU affinity", "control group", "LOKY_MAX_CPU_COUNT", "process"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """cores: that may be used, of `machine_cores`. memory_bytes: that may be used, of `machine_memory_bytes`.

    available_bytes: of these, free when it was looked. oom_kills: of the control group. cores_by, memory_by: what sets
    the bound: "machine", "CPU affinity", "control group", "LOKY_MAX_CPU_COUNT", or "process" (RLIMIT_AS, RLIMIT_DATA).
    """

    cores: int
    machine_cores: int
    cores_by: str
    memory_bytes: int
    machine_memory_bytes: int
    memory_by: str
    available_bytes: int
    oom_kills: int


def usable_cores(groups: ControlGroups, environ: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """How many cores may be used, at least 1, and what bounds them. A quota of 1.5 cores is 1.

    The bounds are those of `joblib.cpu_count()`, at every level of the control groups, and rounded down: a thread more
    than the quota makes all of them wait for the next period.
    """
    bounds = [(os.cpu_count() or 1, MACHINE), (allowed_cores(), AFFINITY)]
    if (quota := groups.cores()) != math.inf:
        bounds.append((int(quota), GROUP))
    if re.fullmatch("[0-9]{1,18}", text := environ.get("LOKY_MAX_CPU_COUNT", "")):
        bounds.append((int(text), LOKY))
    count, bound = min(bounds, key=lambda each: each[0])
    return max(1, count), bound


def allowed_cores() -> int:
    """How many cores the scheduler may run this process on: its CPU affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory(groups: ControlGroups) -> tuple[int, str]:
    """How many bytes may be used, and what bounds them."""
    bounds = [(psutil.virtual_memory().total, MACHINE)]
    if (limit := groups.memory_bytes()) is not None:
        bounds.append((limit, GROUP))
    bounds += [(limit, PROCESS) for limit in _process_limits()]
    return min(bounds, key=lambda each: each[0])


def available_memory(groups: ControlGroups) -> int:
    """How many bytes may still be allocated, by this process and those beside it in its control group."""
    free = groups.available_bytes()
    bounds = [psutil.virtual_memory().available, *_process_limits()]
    return min(bounds if free is None else [*bounds, free])


def read_limits(groups: ControlGroups | None = None) -> Limits:
    """The current limits. Takes less than a millisecond."""
    groups = groups or own_groups()
    (cores, cores_by), (memory, memory_by) = usable_cores(groups), usable_memory(groups)
    return Limits(
        cores=cores,
        machine_cores=os.cpu_count() or 1,
        cores_by=cores_by,
        memory_bytes=memory,
        machine_memory_bytes=psutil.virtual_memory().total,
        memory_by=memory_by,
        available_bytes=available_memory(groups),
        oom_kills=groups.oom_kills(),
    )


class OomWatch:
    """Tells which processes ended because memory ran out: each OOM kill in the control group explains one end.

    Not for use from several threads.
    """

    def __init__(self, groups: ControlGroups) -> None:
        self._groups = groups
        self._explained = self._seen = groups.oom_kills()

    def explains_one(self) -> bool:
        """Whether there was a kill that explains no other end. That kill then explains this one."""
        is_explained = self._groups.oom_kills() > self._explained
        self._explained += is_explained
        return is_explained

    def settle(self) -> None:
        """Forget the kills that the previous call saw already: they were of processes that are not asked about."""
        self._explained = max(self._explained, self._seen)
        self._seen = self._groups.oom_kills()

    def describe(self) -> str:
        """The group's kill count and memory limit, for the error of a killed process."""
        limit = self._groups.memory_bytes()
        bound = f"its memory limit is {mebibytes(limit)}" if limit is not None else "it has no memory limit"
        return f"the control group's oom_kill count is {self._groups.oom_kills()}, {bound}"


def mebibytes(size_bytes: int) -> str:
    """The size in MiB, as text."""
    return f"{size_bytes / 2**20:,.0f} MiB"


@cache
def own_groups() -> ControlGroups:
    """The control groups of this process."""
    return ControlGroups.find()


@cache
def oom_watch() -> OomWatch:
    """The one watch of this process."""
    return OomWatch(own_groups())


def _process_limits() -> list[int]:
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]
