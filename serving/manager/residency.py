"""Which loaded versions leave where memory is short, or nobody asks for them: pure functions of what is loaded.

A version may leave if it is not pinned, has no work, and has stayed for at least as long as it took to load, which
bounds thrashing. Versions that are only kept warm leave first, the oldest first; then live ones, which are loaded again
once they are asked for, those that were used least recently first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from serving.wire.version_state import VersionKey


@dataclass(frozen=True)
class Resident:
    """A version whose engines are loaded.

    size_bytes: memory that it frees. is_live: whether a reference serves it, else it is only kept warm. used_at: when
    it was last asked for, loaded_at: when it became ready, in monotonic seconds. load_seconds: how long that took.
    """

    key: VersionKey
    size_bytes: int
    is_live: bool = True
    is_pinned: bool = False
    has_work: bool = False
    used_at: float = 0.0
    loaded_at: float = 0.0
    load_seconds: float = 0.0

    def may_leave(self, now: float) -> bool:
        """Whether it may leave at this time."""
        return not self.is_pinned and not self.has_work and now - self.loaded_at >= self.load_seconds


def leaving_order(residents: Iterable[Resident], now: float) -> list[Resident]:
    """The versions that may leave now, the first to leave first."""
    return sorted((found for found in residents if found.may_leave(now)), key=_rank)


def leaving_later(residents: Iterable[Resident], now: float) -> list[Resident]:
    """The versions that may not leave now, but once they have answered what they have, or have stayed long enough."""
    return [found for found in residents if not found.is_pinned and not found.may_leave(now)]


def choose_excess(residents: Iterable[Resident], excess_bytes: int, now: float) -> list[VersionKey]:
    """The versions that leave because all together take `excess_bytes` more than they may."""
    leaving: list[VersionKey] = []
    for found in leaving_order(residents, now):
        if excess_bytes <= 0:
            break
        leaving.append(found.key)
        excess_bytes -= found.size_bytes
    return leaving


def choose_idle(residents: Iterable[Resident], idle_seconds: float, now: float) -> list[VersionKey]:
    """The versions that leave because nobody has asked for them for so long; none if it is 0."""
    if not idle_seconds:
        return []
    found = leaving_order(residents, now)
    return [each.key for each in found if now - max(each.used_at, each.loaded_at) >= idle_seconds]


def _rank(found: Resident) -> tuple[bool, float]:
    return found.is_live, max(found.used_at, found.loaded_at) if found.is_live else found.loaded_at
