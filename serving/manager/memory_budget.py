"""Whether there is memory for the engines of a version beside what serves: a pure decision, taken before they start.

An estimate may be wrong; then the kernel kills the engine that loads first, see `priority.OOM_SHARES`.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.layout import MODEL_FOLDER
from serving.runtime.limits import mebibytes
from serving.wire.version_state import VersionKey

ENGINE_BYTES = 400 << 20
"""Memory of an engine beside its weights, until one was measured; see bench/NOTES.md, "Memory of an engine"."""
WEIGHTS_SHARE = 1.2
"""Memory for each byte of weights: on a CPU they are copied into the layout that is multiplied."""
RESERVE_BYTES = 64 << 20
"""Left free: what serves grows with its requests, and libraries that are mapped want to stay in memory."""


@dataclass(frozen=True)
class Footprint:
    """The measured peak memory of an engine. peak_bytes: of its own memory. weights_bytes: of its files."""

    peak_bytes: int
    weights_bytes: int


@dataclass(frozen=True)
class Room:
    """The memory at hand. available_bytes: free now. promised_bytes: that engines which load or are restarted now have
    yet to take. bound_bytes: what all engines together may take, and taken_bytes: what they take at their peaks.

    is_leaving: whether some version is on its way out, and will free what it has. is_loading: whether another one
    loads, which will show what an engine takes. limit: of `available_bytes`, in words.
    """

    available_bytes: int
    promised_bytes: int = 0
    is_leaving: bool = False
    limit: str = ""
    bound_bytes: int = sys.maxsize
    taken_bytes: int = 0
    is_loading: bool = False
    bound_by: str = "by HEADWAITER_MEMORY_BYTES"

    @property
    def free_bytes(self) -> int:
        """The memory that a new engine may take."""
        return max(0, min(self._by_machine, self._by_bound))

    @property
    def bounded_by(self) -> str:
        """What bounds the free memory, in words."""
        if self._by_machine <= self._by_bound:
            return self.limit
        return f"engines may take {mebibytes(self.bound_bytes)} together, {self.bound_by}"

    @property
    def _by_machine(self) -> int:
        return self.available_bytes - self.promised_bytes - RESERVE_BYTES

    @property
    def _by_bound(self) -> int:
        return self.bound_bytes - self.taken_bytes


@dataclass(frozen=True)
class Start:
    """There is room: start the engines."""


@dataclass(frozen=True)
class Wait:
    """There will be room once others have left. evict: the versions that must leave, besides those that already do."""

    evict: tuple[VersionKey, ...] = ()


@dataclass(frozen=True)
class Refuse:
    """There is no room. reason: with the figures."""

    reason: str


MemoryAdmission = Start | Wait | Refuse


def estimate_bytes(weights_bytes: int, measured: Iterable[Footprint] = ()) -> int:
    """The expected memory of an engine: that of the measured one with the nearest weights, plus the difference."""
    found = list(measured)
    if not found:
        return ENGINE_BYTES + round(WEIGHTS_SHARE * weights_bytes)
    return max(estimate_growth(weights_bytes, found), ENGINE_BYTES // 4 + round(WEIGHTS_SHARE * weights_bytes))


def estimate_growth(weights_bytes: int, measured: Sequence[Footprint]) -> int:
    """The memory of the measured engine with the nearest weights, plus the difference of the weights.

    Of several that are as near, it is the one that took most.
    """
    nearest = min(measured, key=lambda found: (abs(found.weights_bytes - weights_bytes), -found.peak_bytes))
    return nearest.peak_bytes + round(WEIGHTS_SHARE * (weights_bytes - nearest.weights_bytes))


def admit(
    need_bytes: int, room: Room, evictable: Sequence[tuple[VersionKey, int]], later_bytes: int = 0
) -> MemoryAdmission:
    """Whether engines that need `need_bytes` may start. evictable: versions that may leave for them, in
    this order, and the bytes that each frees. None leaves where all of them together would not free enough.

    later_bytes: of versions that may leave for them later on.
    """
    if need_bytes <= room.free_bytes:
        return Start()
    if room.is_leaving:
        return Wait()
    missing, evict = need_bytes - room.free_bytes, list[VersionKey]()
    for key, size_bytes in evictable:
        evict.append(key)
        missing -= size_bytes
        if missing <= 0:
            return Wait(tuple(evict))
    if missing <= later_bytes or room.is_loading:
        return Wait()
    return Refuse(
        f"it needs about {mebibytes(need_bytes)} of memory beside what is served, and {mebibytes(room.free_bytes)} are "
        f"free: {room.bounded_by}. Raise that, or serve less"
    )


def both(first: MemoryAdmission, second: MemoryAdmission) -> MemoryAdmission:
    """What holds where two kinds of memory are needed."""
    for admission in (first, second):
        if isinstance(admission, Refuse):
            return admission
    waits = [admission for admission in (first, second) if isinstance(admission, Wait)]
    if not waits:
        return Start()
    return Wait(tuple(dict.fromkeys(key for admission in waits for key in admission.evict)))


def weights_bytes(root: Path) -> int:
    """The size of the artifact's weights."""
    return sum(path.stat().st_size for path in (root / MODEL_FOLDER).glob("*.safetensors"))
