"""Asks the policy what to do, and begins the loads: in which order as a server starts, how many at a time, for whom."""

from registry.cache import is_cached
from registry.references import Reference, ResolvedVersion
from serving.manager.last_live import LastLive
from serving.manager.live_versions import LiveVersions
from serving.manager.managed_version import ManagedVersion
from serving.manager.meter import count_load_on_demand
from serving.manager.placement import Placement
from serving.manager.policy import Action, Load, Snapshot, decide
from serving.manager.registry_watch import RegistryWatch
from serving.manager.startup import Startup
from serving.manager.version_loader import VersionLoader
from serving.settings import ServingSettings
from serving.wire.demand import DemandReader
from serving.wire.version_state import VersionKey

TOGETHER = 8
"""Versions that begin to load side by side at a start. Untuned: few cores load no more of them at a time."""
SLOW_SECONDS = 5.0
"""A download that takes longer holds up no other. Untuned."""


class LoadQueue:
    """At a start pinned models are loaded first, then those that were used last, as far as there is memory for them.

    Until the registry has answered for the first time, the versions that were last live are loaded: importing MLflow
    takes the manager longer than an engine takes to load. They get requests once the registry has confirmed them.
    Not for use from several threads.
    """

    def __init__(
        self,
        settings: ServingSettings,
        versions: dict[VersionKey, ManagedVersion],
        live_versions: LiveVersions,
        loader: VersionLoader,
        placement: Placement,
        startup: Startup,
        watch: RegistryWatch,
        last_live: LastLive,
        demand: DemandReader,
    ) -> None:
        """versions: what is held, the manager's own."""
        self._settings = settings
        self._versions = versions
        self._live_versions = live_versions
        self._loader = loader
        self._placement = placement
        self._startup = startup
        self._watch = watch
        self._last_live = last_live
        self._demand = demand
        last = ((reference, last_live.recall(reference)) for reference in settings.models)
        self._expected = {
            reference: found for reference, found in last if found is not None and is_cached(found, settings.registry)
        }

    def actions(self) -> list[Action]:
        """What the policy asks for now; loads come last, in the order of their models' last use."""
        found = decide(self._snapshot())
        loads = [action for action in found if isinstance(action, Load)]
        if len(loads) < 2:
            return found
        return [action for action in found if not isinstance(action, Load)] + sorted(loads, key=self._rank)

    def begin(self, key: VersionKey, now: float) -> None:
        """Begin to load a version; later if it is still draining, or if others load at the start.

        It is unloaded instead if the server starts and there was no memory for one before it.
        """
        before = self._versions.get(key)
        if before is not None and before.state != "unloaded":
            return
        is_first = before is None and not self._startup.is_over and not self._live_versions.has(key[0])
        if is_first and not self._placement.is_pinned(*key):
            if self._placement.is_full:
                self._versions[key] = ManagedVersion(*key, None, state="unloaded", unloaded_at=now)
                return
            if not self._may_begin(now):
                return
        is_on_demand = before is not None and self._live_versions.is_live(key)
        yields = self._placement.load_yields(is_on_demand=is_on_demand, now=now)
        managed = self._versions[key] = self._loader.begin(key, low_priority=yields)
        managed.began, managed.is_first, managed.is_on_demand = now, is_first, is_on_demand
        if before is not None:
            managed.load_seconds = before.load_seconds
        if is_on_demand:
            count_load_on_demand(key[0])

    def _snapshot(self) -> Snapshot:
        view = self._watch.view
        self._live_versions.forget_all_but(view)
        targets = view.targets if view.is_known else {**view.targets, **self._unserved()}
        return Snapshot(
            targets={key: found.version if found else None for key, found in targets.items()},
            live=self._live_versions.live,
            previous=self._live_versions.previous,
            states={key: held.state for key, held in self._versions.items() if held.state != "draining"},
            keep_previous=self._settings.keep_previous,
            keep_bytes=self._settings.keep_bytes,
            memory={key: held.memory_bytes for key, held in self._versions.items()},
            crashes={key: held.crashes for key, held in self._versions.items()},
            asked={key for key, held in self._versions.items() if self._is_asked(key, held)},
        )

    def _unserved(self) -> dict[Reference, ResolvedVersion]:
        """What the references were last live with, where the cache has it and nothing serves them yet."""
        live = self._live_versions.live
        return {reference: found for reference, found in self._expected.items() if live.get(reference) is None}

    def _is_asked(self, key: VersionKey, held: ManagedVersion) -> bool:
        """Whether an unloaded version is to be loaded."""
        if not held.is_unloaded:
            return False
        return self._demand.asked_at(key) > held.unloaded_at or self._placement.is_pinned(*key)

    def _may_begin(self, now: float) -> bool:
        loading = [held for held in self._versions.values() if held.state == "loading"]
        return sum(bool(held.engines) or now - held.began < SLOW_SECONDS for held in loading) < TOGETHER

    def _rank(self, load: Load) -> tuple[bool, float]:
        references = [reference for reference in self._watch.view.targets if reference.name == load.name]
        is_pinned = not self._settings.pinned.isdisjoint(references)
        return not is_pinned, -max(map(self._last_live.used_at, references), default=0.0)
