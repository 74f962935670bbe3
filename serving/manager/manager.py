"""The manager: reads the registry, decides by the policy, starts and stops engines, publishes the routing table.

One loop in one thread; what blocks (MLflow, downloads, digests) runs in others. It is the table's only writer. A
manager that is killed leaves the engines and the table; the next one goes on from there.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import assert_never

from registry.cache import fetch_for_loading
from registry.redaction import describe_error
from registry.references import ResolvedVersion
from registry.settings import RegistrySettings
from serving.errors import EngineError
from serving.manager.engine_process import EngineEvent, EngineProcess
from serving.manager.engine_starter import EngineStarter
from serving.manager.last_live import LastLive
from serving.manager.live_versions import LiveVersions
from serving.manager.load_queue import LoadQueue
from serving.manager.managed_version import Fetched, ManagedVersion
from serving.manager.meter import restarts
from serving.manager.placement import QUIET_SECONDS, Placement
from serving.manager.policy import Action, GiveUp, Load, Publish, Unload
from serving.manager.prestart import TemplateKeeper, find_wanted
from serving.manager.recovery import enter, unloaded_versions
from serving.manager.registry_file import RegistryFile
from serving.manager.registry_watch import RegistryWatch
from serving.manager.rollout.keeper import RolloutKeeper
from serving.manager.shutdown import end_engines, wait_for_fronts
from serving.manager.startup import Startup
from serving.manager.table_writer import TableWriter
from serving.manager.troubles import Troubles
from serving.manager.version_loader import VersionLoader
from serving.manager.wakeup import Wakeup
from serving.runtime.backoff import jittered_by
from serving.runtime.instruments import forget
from serving.runtime.limits import Limits, oom_watch, read_limits
from serving.runtime.run_folder import remove
from serving.runtime.server_process import ServerProcess
from serving.runtime.workers import WorkerBeat, WorkerWatchdog
from serving.settings import ServingSettings
from serving.wire.demand import DemandReader
from serving.wire.engine_orders import EngineOrder
from serving.wire.routing_table import TableFile
from serving.wire.version_state import VersionKey

logger = logging.getLogger("headwaiter.manager")

STEP_SECONDS = 0.05
STILL_STEP_SECONDS = 0.25
"""Between two turns while nobody asks for anything and nothing is loaded, started again or unloaded. Untuned."""
BEAT_SECONDS = 1.0
MEASURE_SECONDS = 5.0


class Manager:
    """Keeps the served versions equal to the registry's. `run` blocks; `stop` may be called from another thread."""

    def __init__(
        self,
        settings: ServingSettings,
        *,
        fetch: Callable[[ResolvedVersion, RegistrySettings], Fetched] = fetch_for_loading,
        engine: Callable[[EngineOrder], EngineProcess] = EngineProcess,
        watch: RegistryWatch | None = None,
        limits: Callable[[], Limits] = read_limits,
        spread: Callable[[float, float], float] = jittered_by,
        rollouts: Callable[[Callable[[], object]], RolloutKeeper] | None = None,
    ) -> None:
        """Construction is cheap; what is handed in does the work. Raises EngineError if the settings name no model.

        spread: of a pause and the time at which it began, so that replicas do not try again at the same time. rollouts:
        makes what follows rollouts, and calls what it is given when there is news; None where none are followed.
        """
        if not settings.models and not settings.deployments:
            raise EngineError("nothing to serve: name models on the command line, or in HEADWAITER_MODELS")
        self.settings = settings
        self._template = TemplateKeeper(settings.run, settings.hang_seconds, partial(find_wanted, settings))
        self._stop = threading.Event()
        self._registry_file = RegistryFile(settings.registry.registry_address)
        self._wakeup = Wakeup(settings.run, self._registry_file.paths)
        self._watch = watch or RegistryWatch(settings, self._wakeup.set)
        self._rollouts = rollouts(self._wakeup.set) if rollouts is not None else None
        last_live = LastLive(settings.registry)
        self._file = TableFile(settings.run)
        self._loader = VersionLoader(settings, fetch, self._watch, last_live, spread, self._wakeup.set)
        self._live_versions = LiveVersions(last_live)
        self._startup = Startup(needs_live=bool(settings.models), patience_seconds=settings.retry_seconds)
        self._versions: dict[VersionKey, ManagedVersion] = {}
        self._demand = DemandReader(settings.run)
        starter = EngineStarter(settings, engine)
        self._placement = Placement(
            settings, starter, self._versions, self._live_versions, self._watch, limits, self._demand
        )
        self._loads = LoadQueue(
            settings,
            self._versions,
            self._live_versions,
            self._loader,
            self._placement,
            self._startup,
            self._watch,
            last_live,
            self._demand,
        )
        self._writer = TableWriter(
            self._file,
            self._versions,
            self._live_versions,
            self._loader,
            self._startup,
            self._watch,
            self._rollouts,
        )
        self._troubles = Troubles()
        self._server = ServerProcess(settings.run)
        self._measure_at = 0.0
        self._fronts = WorkerWatchdog(settings.run, "front", settings.worker_hang_seconds)

    def run(self) -> None:
        """Serve until `stop` or the server's end; then wait for the fronts to leave, and end the engines.

        The process is to end with it. Where it raises, engines and table stay for the next manager.
        """
        self._adopt()
        beat = WorkerBeat(self.settings.run, "manager")
        next_beat = 0.0
        try:
            while not self._stop.is_set() and not self._server.is_gone():
                now = time.monotonic()
                try:
                    self._template.keep(now, is_awaited=any(held.awaits_fork for held in self._versions.values()))
                    self.step(now)
                    self._fronts.look(now)
                    beat.beat(now)
                    if now >= next_beat:
                        self._file.beat()
                        next_beat = now + BEAT_SECONDS
                except Exception:  # the edge: what is served goes on, and liveness fails where this does
                    logger.exception("the manager's turn failed; it is tried again")
                    self._stop.wait(BEAT_SECONDS)
                # to the moment: a rollback is served within one poll
                now = time.monotonic()
                step = STILL_STEP_SECONDS if self._is_still(now) else STEP_SECONDS
                self._wakeup.wait(min(step, self._watch.idle_seconds(now)))
        finally:
            beat.close()
            self._wakeup.close()
        self._shut_down()

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()
        self._wakeup.set()

    def step(self, now: float) -> None:
        """One turn: look at the registry's answer and at every version, act, publish."""
        was_nudged, was_written = self._file.was_nudged(), self._registry_file.was_written()
        if self._rollouts is not None and self._watch.view.is_known:
            names = {reference.name for reference in self._watch.view.targets}
            states = {key: held.state for key, held in self._versions.items()}
            is_begun = was_written and not self._rollouts.references()  # else the leader changes it, too
            self._rollouts.step(now, names, states, at_once=was_nudged or is_begun)
            self._placement.judged = frozenset(self._rollouts.references())
            if self._startup.is_over:
                self._watch.serve_also(self._rollouts.references())
        self._watch.step(now, at_once=was_nudged or was_written)
        self._demand.read(now)
        for managed in list(self._versions.values()):
            with self._troubles.apart("look at", managed.name, managed.version):
                self._look_at(managed, now)
        if now >= self._measure_at:
            self._measure_at = now + MEASURE_SECONDS
            oom_watch().settle()
            for managed in self._versions.values():
                with self._troubles.apart("measure", managed.name, managed.version):
                    managed.measure()
                    managed.own_bytes()
            self._placement.relieve(now)
            self._writer.taken_bytes = self._placement.taken_bytes()
            self._live_versions.note_use(self._demand)
        for action in self._loads.actions():
            name = action.reference.name if isinstance(action, Publish) else action.name
            with self._troubles.apart(type(action).__name__.lower(), name, action.version):
                self._act(action, now)
        self._writer.publish()

    def _is_still(self, now: float) -> bool:
        """Whether the next turn may come later: what happens meanwhile, nobody waits for."""
        is_settled = self._startup.is_over and all(held.is_settled for held in self._versions.values())
        return is_settled and self._demand.is_quiet(QUIET_SECONDS, now)

    def _look_at(self, managed: ManagedVersion, now: float) -> None:
        try:
            changes = managed.step(now, partial(self._placement.start_engines, now), self.settings.load_seconds)
        except Exception as error:  # as of a report that cannot be read
            if managed.state != "loading":
                raise
            changes = managed.fail(describe_error(error), now)
        for change in changes:
            self._note(managed, change, now)
        if managed.state == "loading":
            managed.own_bytes()
        if not (managed.is_over(now) or self._loader.is_due_again(managed, self._live_versions.live_keys(), now)):
            return
        if managed.returns or (managed.is_on_demand and managed.state == "failed"):
            managed.unload(now)
        else:
            del self._versions[managed.name, managed.version]
            forget(managed.name, managed.version)

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Publish(reference, version):
                if self._watch.view.is_known:
                    held = self._versions[reference.name, version]
                    self._live_versions.publish(reference, held, self._watch.view, now)
            case Load(name, version):
                self._loads.begin((name, version), now)
            case GiveUp(name, version):
                held = self._versions[name, version]
                held.fail(f"its engines crashed {held.crashes} times in a row, the version before it serves again", now)
                logger.error("%s/%s: %s", name, version, held.error)
            case Unload(name, version):
                if self._watch.view.is_known:
                    logger.info("unloading %s/%s", name, version)
                    self._loader.failed.pop((name, version), None)
                    self._versions[name, version].drain(now, self.settings.drain_seconds)
            case other:
                assert_never(other)

    def _note(self, managed: ManagedVersion, change: EngineEvent, now: float) -> None:
        name, version = managed.name, managed.version
        task = managed.contract.task if managed.contract else ""
        match change:
            case "ready":
                self._loader.failed.pop((name, version), None)
                managed.measure()
                managed.own_bytes()
                self._live_versions.note_loaded(managed, self._watch.view)
                restarts(name, version, task)  # from now on there is a series, so that a rate sees the first
                logger.info("%s/%s is ready after %.1f s", name, version, now - managed.began)
            case "failed":
                logger.error("%s/%s could not be loaded: %s", name, version, managed.error)
                self._loader.note_failure(managed)
                self._live_versions.fail(managed, self._watch.view, now)
            case "lost":
                fields = (name, version, managed.crashes, managed.error)
                logger.error("an engine of %s/%s ended, %d in a row; it is restarted: %s", *fields)
                if managed.is_out_of_memory:
                    for other in self._placement.make_room_for(managed, now):
                        self._note(other, "failed", now)
                if any(engine.report.is_damaged for engine in managed.engines):
                    self._loader.fetch_again(managed)
            case "restarted":
                restarts(name, version, task).inc()
            case other:
                assert_never(other)

    def _adopt(self) -> None:
        """Go on from where a manager that was killed has left; its fronts must not see an emptier table meanwhile."""
        left, held_versions = enter(self.settings.run)
        self._versions.update(held_versions)
        self._live_versions.adopt(left, self._versions)
        self._startup.is_over = left.has_started
        if self._rollouts is not None:
            self._rollouts.adopt(left.models)
        self._watch.expect(self._live_versions.live)
        for (name, version), held in self._versions.items():
            before = left.models[name].versions.get(version) if name in left.models else None
            if before is not None and before.state == "draining":
                held.drain(time.monotonic(), self.settings.drain_seconds, returns=before.on_demand)
            else:
                self._placement.complete(held)
        self._versions.update({key: held for key, held in unloaded_versions(left) if key not in self._versions})
        self._writer.publish()

    def _shut_down(self) -> None:
        self._watch.close()
        if self._rollouts is not None:
            self._rollouts.close()
        wait_for_fronts(self.settings.run, self._file, self.settings.grace_seconds)
        end_engines(self._versions.values())
        self._template.close()
        self._loader.close()
        remove(self.settings.run)
