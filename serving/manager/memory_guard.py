"""The manager's view of memory: what is free, what loading versions still need, and which versions may leave."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from serving.manager.managed_version import ManagedVersion, ManagedVersions
from serving.manager.memory_budget import Footprint, MemoryAdmission, Room, admit, estimate_bytes
from serving.manager.policy import CRASH_LIMIT
from serving.manager.residency import Resident
from serving.runtime.limits import Limits, mebibytes
from serving.wire.demand import DemandReader
from serving.wire.version_state import VersionKey


class Footprints:
    """What engines were measured to take, also those of versions that have left."""

    def __init__(self) -> None:
        self._known: dict[VersionKey, list[Footprint]] = {}

    def note(self, versions: ManagedVersions) -> None:
        """Take what is measured now."""
        self._known.update({key: found for key, held in versions.items() if (found := held.footprints())})

    def estimate(self, held: ManagedVersion) -> int:
        """The memory that an engine of the version is expected to take: its own peak, or that of a similar one."""
        own = self._known.get((held.name, held.version))
        if own:
            return max(found.peak_bytes for found in own)
        return estimate_bytes(held.weights_bytes, [found for each in self._known.values() for found in each])


def admit_version(
    held: ManagedVersion,
    versions: ManagedVersions,
    evictable: Sequence[Resident],
    engines: int,
    limits: Limits,
    footprints: Footprints,
    bound_bytes: int,
    now: float,
    later: Iterable[Resident] = (),
) -> MemoryAdmission:
    """Whether this many engines of a version may start beside what is held. Notes what they will need.

    evictable: the versions that may leave for it, in this order. later: those that may leave later. bound_bytes: what
    engines may take together.
    """
    footprints.note(versions)
    loading = [
        other  # what has left for one that waits is for that one
        for other in versions.values()
        if other is not held and other.state == "loading" and (other.engines or other.took_place)
    ]
    for other in (held, *loading):
        if not other.need_bytes or not other.engines:  # one that loads may have started before anything served
            other.need_bytes = engines * footprints.estimate(other)
    promised = sum(max(0, other.need_bytes - other.own_bytes()) for other in loading)
    promised += sum(
        other.returning_bytes()
        for other in versions.values()
        if other.state == "ready" and other.crashes < CRASH_LIMIT  # one that crashes more often is replaced
    )
    room = Room(
        limits.available_bytes,
        promised,
        any(other.leaves_soon(now) for other in versions.values()),
        f"the limit is {mebibytes(limits.memory_bytes)}, set by the {limits.memory_by}",
        bound_bytes,
        sum(taken_bytes(other) for other in versions.values() if other is not held),
        is_loading=any(other.engines for other in loading),
    )
    frees = [(found.key, found.size_bytes) for found in evictable]
    slow = [other for other in versions.values() if other.state == "draining" and not other.leaves_soon(now)]
    later_bytes = sum(found.size_bytes for found in later) + sum(other.own_bytes() for other in slow)
    return admit(held.need_bytes, room, frees, later_bytes)


def taken_bytes(held: ManagedVersion) -> int:
    """The host memory that counts as taken by a version: what its engines take at their peaks."""
    if held.state == "loading":
        return max(held.need_bytes if held.engines or held.took_place else 0, held.own_bytes())
    if held.state == "ready":
        return held.peak_bytes()
    return held.own_bytes()


def find_residents(
    versions: ManagedVersions,
    served: AbstractSet[VersionKey],
    wanted: AbstractSet[VersionKey],
    pinned: AbstractSet[VersionKey],
    demand: DemandReader,
) -> list[Resident]:
    """The versions that have loaded. served: what is live. wanted: what the registry names; to be live in a moment."""
    return [
        Resident(
            key,
            held.peak_bytes(),
            is_live=key in served,
            is_pinned=key in pinned or (key in wanted and key not in served),
            has_work=demand.has_work(key),
            used_at=demand.asked_at(key),
            loaded_at=held.loaded_at,
            load_seconds=held.load_seconds,
        )
        for key, held in versions.items()
        if held.state == "ready"
    ]
