"""Starts the engines of versions where there is memory for them, and lets others leave where there is not."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Literal

from monitoring.gpus import Gpu, read_gpus
from registry.references import Reference
from serving.errors import EngineError
from serving.manager.engine_process import EngineProcess
from serving.manager.engine_starter import EngineStarter
from serving.manager.gpu_memory import admit_on_gpus, gpu_bounds
from serving.manager.live_versions import LiveVersions
from serving.manager.managed_version import ManagedVersion
from serving.manager.memory_budget import MemoryAdmission, Refuse, Wait, both
from serving.manager.memory_guard import Footprints, admit_version, find_residents, taken_bytes
from serving.manager.meter import count_unload
from serving.manager.registry_watch import RegistryWatch
from serving.manager.residency import Resident, choose_excess, choose_idle, leaving_later, leaving_order
from serving.runtime.limits import Limits
from serving.settings import MEMORY_SHARE, ServingSettings
from serving.wire.demand import DemandReader
from serving.wire.version_state import VersionKey

logger = logging.getLogger("headwaiter.manager")

REPLACE_ADVICE = (
    ", or set HEADWAITER_REPLACE_LIVE=1, which stops the live version before a version for which there is no room loads"
)
QUIET_SECONDS = 5.0
"""Where nobody has asked for anything for so long, a load disturbs nobody. Untuned: longer than a load takes."""
LEFT_SECONDS = 5.0
"""A version that waits for memory, and for which no request has waited for so long, is given up. Untuned."""


class Placement:
    """Which versions have engines. Not for use from several threads.

    is_full: whether there was no room for a version at the start, so that those after it are not loaded either.
    judged: references of versions that a rollout compares, which stay loaded meanwhile.
    """

    def __init__(
        self,
        settings: ServingSettings,
        starter: EngineStarter,
        versions: dict[VersionKey, ManagedVersion],
        live_versions: LiveVersions,
        watch: RegistryWatch,
        limits: Callable[[], Limits],
        demand: DemandReader,
        gpus: Callable[[], Sequence[Gpu]] = read_gpus,
    ) -> None:
        """versions: what is held, the manager's own."""
        self._gpus = gpus
        self._settings = settings
        self._starter = starter
        self._versions = versions
        self._live_versions = live_versions
        self._watch = watch
        self._limits = limits
        self._demand = demand
        self._footprints = Footprints()
        self.is_full = False
        self.judged: frozenset[Reference] = frozenset()

    def start_engines(self, now: float, held: ManagedVersion) -> list[EngineProcess]:
        """Start them, or none yet where others have to leave first.

        Raises EngineError where there is no memory. A version that is not live yet when the server starts is unloaded
        then, and so is one for which nobody waits any more.
        """
        if self._is_given_up(held, now):
            held.unload(now)
            return []
        if self._has_to_queue(held):
            held.waits_since = held.waits_since or now
            return []
        if any(other.engines for other in self._versions.values()):
            admission = self._admit(held, now, replace_live=self._settings.replace_live)
            if isinstance(admission, Refuse):
                if held.is_first and not self.is_pinned(held.name, held.version):
                    self.is_full = True
                    held.unload(now)
                    return []
                helps = not isinstance(self._admit(held, now, replace_live=True), Refuse)
                raise EngineError(admission.reason + (REPLACE_ADVICE if helps else ""))
            if isinstance(admission, Wait):
                held.waits_since = held.waits_since or now
                self._make_place(held, admission.evict, now)
                return []
        held.waits_since = 0.0
        return self._start_on(self._settings.engine_devices, held, now)

    def complete(self, held: ManagedVersion) -> None:
        """Start the engines that an adopted version lacks: they had not reported yet when the previous manager died."""
        missing = list(self._settings.engine_devices)
        for engine in held.engines:
            with suppress(ValueError):
                missing.remove(engine.order.device)
        if missing and held.root is not None:
            with suppress(OSError):  # a full disk: fewer engines are better than none
                started = self._start_on(missing, held, time.monotonic())
                for engine in started:
                    engine.was_ready = held.state == "ready"  # then one that fails is restarted, the others serve on
                held.engines += started

    def make_room_for(self, live: ManagedVersion, now: float) -> list[ManagedVersion]:
        """Memory ran out under a version that serves: whatever loads beside it or is only kept warm ends.

        Returns the versions that loaded, and have failed now.
        """
        why = f"memory ran out beside {live.name}/{live.version}"
        given_up = [other for other in self._versions.values() if other.state == "loading" and other.engines]
        for other in given_up:
            other.is_given_up = True
            other.fail(f"given up, as {why}: {live.error}", now)
        for found in self._residents():
            if not found.is_live and not found.is_pinned:
                self._drain(found.key, f"as {why}", now)
        return given_up

    def relieve(self, now: float) -> None:
        """Unload what has been idle for too long, and what is too much where engines have grown."""
        idle = choose_idle(self._residents(), self._settings.idle_unload_seconds, now)
        for key in idle:
            self._leave(key, "idle", now)
        taken = self.taken_bytes()
        others = [found for found in self._residents() if found.key not in idle]
        for key in choose_excess(others, taken - self._bound_bytes(), now):
            self._leave(key, "memory", now)

    def taken_bytes(self) -> int:
        """The memory that counts as taken, of what engines may take together."""
        return sum(taken_bytes(held) for held in self._versions.values())

    def load_yields(self, *, is_on_demand: bool, now: float) -> bool:
        """Whether a load is to disturb those that are served as little as possible. Requests wait for one on demand."""
        return self._live_versions.is_serving() and not (is_on_demand or self._demand.is_quiet(QUIET_SECONDS, now))

    def is_pinned(self, name: str, version: str) -> bool:
        """Whether the version never leaves: a reference that is pinned serves it, or is to."""
        return (name, version) in self._pinned()

    def _pinned(self) -> set[VersionKey]:
        targets = self._watch.view.targets
        found = set()
        for reference in self._settings.pinned | self.judged:
            target = targets.get(reference)
            found |= {(reference.name, version) for version in (self._live_versions.live.get(reference),) if version}
            found |= {(target.name, target.version)} if target is not None else set()
        return found

    def _is_given_up(self, held: ManagedVersion, now: float) -> bool:
        """Whether it waits for memory, and nobody waits for it any more."""
        key = (held.name, held.version)
        is_waiting = held.is_on_demand and bool(held.waits_since)
        return is_waiting and not self._demand.has_work(key) and now - self._demand.asked_at(key) > LEFT_SECONDS

    def _has_to_queue(self, held: ManagedVersion) -> bool:
        """Whether another version has waited for memory for longer."""
        return any(
            other.waits_since and other.waits_since < (held.waits_since or float("inf"))
            for other in self._versions.values()
            if other is not held and other.state == "loading" and not other.engines
        )

    def _admit(self, held: ManagedVersion, now: float, *, replace_live: bool) -> MemoryAdmission:
        """Whether its engines may start. replace_live: whether its model's live version may leave for it."""
        residents = [found for found in self._residents() if self._may_give_way(found, held, replace_live=replace_live)]
        order = leaving_order(residents, now)
        if replace_live:  # the own live version leaves last of all, whether it has work or not
            own = [found for found in residents if found.is_live and found.key[0] == held.name]
            order = [found for found in order if found not in own] + own
        later = leaving_later([found for found in residents if found not in order], now)
        limits, devices = self._limits(), self._settings.engine_devices
        bound = self._settings.memory_bound(limits)
        on_host = admit_version(held, self._versions, order, len(devices), limits, self._footprints, bound, now, later)
        if isinstance(on_host, Refuse) or not self._uses_gpus():
            return on_host
        bounds = gpu_bounds(self._gpus(), MEMORY_SHARE, self._settings.gpu_memory_bytes)
        return both(on_host, admit_on_gpus(held, self._versions, order, later, devices, bounds, now))

    def _uses_gpus(self) -> bool:
        return any(engine.report.device_bytes for held in self._versions.values() for engine in held.engines)

    def _may_give_way(self, found: Resident, held: ManagedVersion, *, replace_live: bool) -> bool:
        """Whether a loaded version may leave for `held`, once it has no work."""
        if not found.is_live or found.key[0] != held.name:
            return not (found.is_live and held.is_first)
        return replace_live and found.key not in self._wanted()

    def _make_place(self, held: ManagedVersion, keys: Iterable[VersionKey], now: float) -> None:
        for key in keys:
            if key in self._live_versions.live_keys() and key[0] == held.name:
                held.took_place = True
                self._drain(key, f"so that there is memory for {held.name}/{held.version}", now)
            else:
                self._leave(key, "memory", now)

    def _start_on(self, devices: Iterable[str], held: ManagedVersion, now: float) -> list[EngineProcess]:
        assert held.root is not None
        assert held.contract is not None
        yields = self.load_yields(is_on_demand=held.is_on_demand, now=now)
        return self._starter.start(
            devices, held.name, held.version, held.root, held.contract.digest, low_priority=yields
        )

    def _residents(self) -> list[Resident]:
        served, pinned = self._live_versions.live_keys(), self._pinned()
        return find_residents(self._versions, served, self._wanted(), pinned, self._demand)

    def _wanted(self) -> set[VersionKey]:
        """What the registry names."""
        return {(found.name, found.version) for found in self._watch.view.targets.values() if found is not None}

    def _bound_bytes(self) -> int:
        return self._settings.memory_bound(self._limits())

    def _leave(self, key: VersionKey, reason: Literal["memory", "idle"], now: float) -> None:
        """Unload a version, which is loaded again when it is asked for if it is live."""
        is_live = key in self._live_versions.live_keys()
        why = "as there is no memory for it beside others" if reason == "memory" else "as nobody has asked for it"
        logger.info("%s/%s leaves, %s", *key, why)
        self._versions[key].drain(now, self._settings.drain_seconds, returns=is_live)
        count_unload(key[0], reason)

    def _drain(self, key: VersionKey, why: str, now: float) -> None:
        logger.warning("%s/%s leaves, %s", *key, why)
        self._versions[key].drain(now, self._settings.drain_seconds)
