"""The manager's view of memory: what is free, what loading versions still need, and which versions may leave."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from serving.manager.managed_version import ManagedVersion
from serving.manager.memory_budget import Admission, Room, admit, estimate_bytes
from serving.manager.policy import CRASH_LIMIT, VersionKey
from serving.runtime.limits import Limits, mebibytes

ManagedVersions = Mapping[VersionKey, ManagedVersion]


def admit_version(
    held: ManagedVersion, versions: ManagedVersions, evictable: list[VersionKey], engines: int, limits: Limits
) -> Admission:
    """Whether this many engines of a version may start beside what is held. Notes what they will need.

    evictable: the versions that may leave for it.
    """
    measured = [found for other in versions.values() for found in other.footprints()]
    loading = [
        other  # what has left for one that waits is for that one
        for other in versions.values()
        if other is not held and other.state == "loading" and (other.engines or other.took_place)
    ]
    for other in (held, *loading):
        if not other.need_bytes:  # one that loads may have started before anything served
            other.need_bytes = engines * estimate_bytes(other.weights_bytes, measured)
    promised = sum(max(0, other.need_bytes - other.own_bytes()) for other in loading)
    promised += sum(
        other.returning_bytes()
        for other in versions.values()
        if other.state == "ready" and other.crashes < CRASH_LIMIT  # one that crashes more often is replaced
    )
    room = Room(
        limits.available_bytes,
        promised,
        any(other.state == "draining" for other in versions.values()),
        f"the limit is {mebibytes(limits.memory_bytes)}, set by the {limits.memory_by}",
    )
    return admit(held.need_bytes, room, [(key, versions[key].own_bytes()) for key in evictable])


def find_evictable(
    versions: ManagedVersions, served: AbstractSet[VersionKey], wanted: AbstractSet[VersionKey], replaced: str | None
) -> list[VersionKey]:
    """The versions that may leave so that another one has memory: those that are only kept warm, the oldest first.

    served: what is live. wanted: what the registry names. replaced: the model whose live version may leave, too, if the
    registry does not name it any more.
    """
    ready = sorted((held.began, key) for key, held in versions.items() if held.state == "ready")
    idle = [key for _, key in ready if key not in wanted]
    return [key for key in idle if key not in served] + [key for key in idle if key in served and key[0] == replaced]
