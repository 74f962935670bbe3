"""Starts the engines of versions where there is memory for them, and lets others leave where there is not."""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from serving.errors import EngineError
from serving.manager.engine_process import EngineProcess
from serving.manager.engine_starter import EngineStarter
from serving.manager.live_versions import LiveVersions
from serving.manager.managed_version import ManagedVersion
from serving.manager.memory_budget import Admission, Refuse, Wait
from serving.manager.memory_guard import admit_version, find_evictable
from serving.manager.policy import VersionKey
from serving.manager.registry_watch import RegistryWatch
from serving.runtime.limits import Limits
from serving.settings import ServingSettings

logger = logging.getLogger("headwaiter.manager")

REPLACE_ADVICE = (
    ", or set HEADWAITER_REPLACE_LIVE=1, which stops the live version before a version for which there is no room loads"
)


class Placement:
    """Which versions have engines. Not for use from several threads."""

    def __init__(
        self,
        settings: ServingSettings,
        starter: EngineStarter,
        versions: dict[VersionKey, ManagedVersion],
        live_versions: LiveVersions,
        watch: RegistryWatch,
        limits: Callable[[], Limits],
    ) -> None:
        """versions: what is held, the manager's own."""
        self._settings = settings
        self._starter = starter
        self._versions = versions
        self._live_versions = live_versions
        self._watch = watch
        self._limits = limits

    def start_engines(self, now: float, held: ManagedVersion) -> list[EngineProcess]:
        """Start them, or none yet where others have to leave first; raises EngineError where there is no memory."""
        if any(other.state in ("ready", "draining") for other in self._versions.values()):
            admission = self._admit(held, replace_live=self._settings.replace_live)
            if isinstance(admission, Refuse):
                helps = not isinstance(self._admit(held, replace_live=True), Refuse)
                raise EngineError(admission.reason + (REPLACE_ADVICE if helps else ""))
            if isinstance(admission, Wait):
                held.took_place |= any(key in self._live_versions.live_keys() for key in admission.evict)
                self._evict(admission.evict, f"so that there is memory for {held.name}/{held.version}", now)
                return []
        return self._start_on(self._settings.engine_devices, held)

    def complete(self, held: ManagedVersion) -> None:
        """Start the engines that an adopted version lacks: they had not reported yet when the previous manager died."""
        missing = list(self._settings.engine_devices)
        for engine in held.engines:
            with suppress(ValueError):
                missing.remove(engine.order.device)
        if missing and held.root is not None:
            with suppress(OSError):  # a full disk: fewer engines are better than none
                started = self._start_on(missing, held)
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
        self._evict(self._evictable(None), f"as {why}", now)
        return given_up

    def _admit(self, held: ManagedVersion, *, replace_live: bool) -> Admission:
        """Whether its engines may start. replace_live: whether the live version may leave for it."""
        evictable = self._evictable(held.name if replace_live else None)
        return admit_version(held, self._versions, evictable, len(self._settings.engine_devices), self._limits())

    def _start_on(self, devices: Iterable[str], held: ManagedVersion) -> list[EngineProcess]:
        assert held.root is not None
        assert held.contract is not None
        low_priority = self._live_versions.is_serving()
        return self._starter.start(
            devices, held.name, held.version, held.root, held.contract.digest, low_priority=low_priority
        )

    def _evictable(self, replaced: str | None) -> list[VersionKey]:
        """The versions that may leave where memory is short. replaced: the model whose live version may."""
        wanted = {(found.name, found.version) for found in self._watch.view.targets.values() if found is not None}
        return find_evictable(self._versions, self._live_versions.live_keys(), wanted, replaced)

    def _evict(self, keys: Iterable[VersionKey], why: str, now: float) -> None:
        for key in keys:
            logger.warning("%s/%s leaves, %s", *key, why)
            self._versions[key].drain(now, self._settings.drain_seconds)
