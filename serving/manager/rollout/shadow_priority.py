"""Engines that answer shadows alone yield the cores to those that answer clients.

A candidate's engine computes as fast as the machine lets it, and a slow candidate takes the more of it. So its session
has a low priority until clients are sent to it. Where the kernel does not group processes by session, nothing changes.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from serving.manager.managed_version import ManagedVersion
from serving.runtime.priority import session_niceness, set_session_niceness
from serving.wire.routing_table import RolloutEntry

SHADOW_NICENESS = 10
"""Of a session whose engine answers shadows alone: a tenth of a core beside a busy one, and all of an idle core."""


def answers_shadows_alone(held: ManagedVersion, rollout: RolloutEntry | None, *, is_live: bool) -> bool:
    """Whether no client is sent to a version. is_live: whether an alias that is served names it."""
    is_candidate = rollout is not None and rollout.is_shadowing and rollout.candidate == held.version
    return is_candidate and rollout is not None and not rollout.weight and not is_live and held.state == "ready"


class ShadowPriority:
    """What the manager has changed. folder: of the processes."""

    def __init__(self, folder: Path = Path("/proc")) -> None:
        self._folder = folder
        self._is_low: dict[int, bool] = {}
        self._before: dict[int, int] = {}

    def follow(self, engines: Iterable[tuple[int, bool]]) -> None:
        """Lower and raise priorities. engines: process id, and whether that engine answers shadows alone.

        What a manager before this one has lowered is raised, too. Blocks for some 0.1 s where something changes.
        """
        found: Mapping[int, bool] = dict(engines)
        for pid, is_low in found.items():
            if self._is_low.get(pid) is not is_low and self._leads_its_session(pid):
                self._set(pid, self._folder / str(pid) / "autogroup", is_low=is_low)
        self._is_low = dict(found)
        self._before = {pid: niceness for pid, niceness in self._before.items() if pid in found}

    def _set(self, pid: int, path: Path, *, is_low: bool) -> None:
        niceness = session_niceness(path)
        if is_low and niceness < SHADOW_NICENESS:
            self._before[pid] = niceness
            set_session_niceness(SHADOW_NICENESS, path)
        elif not is_low and niceness == SHADOW_NICENESS:
            set_session_niceness(self._before.pop(pid, 0), path)

    def _leads_its_session(self, pid: int) -> bool:
        """Else the session is that of other processes, too."""
        with suppress(OSError):
            return pid > 0 and os.getsid(pid) == pid
        return False
