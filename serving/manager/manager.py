"""The manager: reads the registry, decides by the policy, starts and stops engines, publishes the routing table.

One loop in one thread; what blocks (MLflow, downloads, digests) runs in others. It is the table's only writer. A
manager that is killed leaves the engines and the table; the next one goes on from there.
"""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import assert_never

from registry.cache import discard, fetch_for_loading, is_cached
from registry.redaction import describe_error
from registry.references import Reference, ResolvedVersion
from registry.settings import InvalidSetting, RegistrySettings
from serving.errors import EngineError
from serving.manager.engine_process import EngineEvent, EngineProcess
from serving.manager.engine_starter import EngineStarter
from serving.manager.last_live import LastLive
from serving.manager.live_versions import LiveVersions
from serving.manager.managed_version import Fetched, ManagedVersion
from serving.manager.memory_budget import Admission, Refuse, Wait
from serving.manager.memory_guard import admit_version, find_evictable
from serving.manager.meter import restarts, start_counting
from serving.manager.policy import Action, GiveUp, Load, Publish, Snapshot, Unload, VersionKey, decide
from serving.manager.prestart import TemplateKeeper
from serving.manager.recovery import enter
from serving.manager.registry_watch import RegistryWatch
from serving.manager.startup import Startup
from serving.runtime.backoff import backoff_seconds, jittered_by
from serving.runtime.instruments import forget
from serving.runtime.limits import Limits, oom_watch, read_limits
from serving.runtime.priority import run_at_low_priority
from serving.runtime.run_folder import remove
from serving.runtime.server_process import ServerProcess
from serving.runtime.workers import WorkerBeat, WorkerWatchdog
from serving.settings import ServingSettings
from serving.wire.engine_orders import EngineOrder
from serving.wire.routing_table import FRONTS_LOCK, ModelEntry, Table, TableFile

logger = logging.getLogger("headwaiter.manager")

STEP_SECONDS = 0.05
BEAT_SECONDS = 1.0
MEASURE_SECONDS = 5.0
MAX_RETRY_SECONDS = 3600.0
"""Longest pause before a version that failed is tried again."""

FETCHES = 64
"""Versions that are fetched at a time. Untuned: far more than may hang in a store without holding up the others."""

REPLACE_ADVICE = (
    ", or set HEADWAITER_REPLACE_LIVE=1, which stops the live version before a version for which there is no room loads"
)


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
    ) -> None:
        """Construction is cheap; what is handed in does the work. Raises EngineError if the settings name no model.

        spread: of a pause and the time at which it began, so that replicas do not try again at the same time.
        """
        if not settings.models and not settings.deployments:
            raise EngineError("nothing to serve: name models on the command line, or in HEADWAITER_MODELS")
        self.settings = settings
        self._fetch = fetch
        self._spread = spread
        self._starter = EngineStarter(settings, engine)
        self._template = TemplateKeeper(settings.run, settings.hang_seconds)
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._watch = watch or RegistryWatch(settings, self._woken)
        self._last_live = LastLive(settings.registry)
        self._file = TableFile(settings.run)
        self._fetchers = ThreadPoolExecutor(FETCHES, thread_name_prefix="headwaiter-fetch")
        self._live_versions = LiveVersions(self._last_live)
        self._startup = Startup(needs_live=bool(settings.models), patience_seconds=settings.retry_seconds)
        self._versions: dict[VersionKey, ManagedVersion] = {}
        self._failed: dict[VersionKey, ManagedVersion] = {}
        self._troubles: dict[tuple[str, str, str], str] = {}
        self._server = ServerProcess(settings.run)
        self._table: Table | None = None
        self._is_unwritten = False
        self._measure_at = 0.0
        self._limits = limits
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
                self._woken.wait(min(STEP_SECONDS, self._watch.idle_seconds(time.monotonic())))
                self._woken.clear()
        finally:
            beat.close()
        self._shut_down()

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()
        self._woken.set()

    def step(self, now: float) -> None:
        """One turn: look at the registry's answer and at every version, act, publish."""
        self._watch.step(now, at_once=self._file.was_nudged())
        for managed in list(self._versions.values()):
            with self._apart("look at", managed.name, managed.version):
                self._look_at(managed, now)
        if now >= self._measure_at:
            self._measure_at = now + MEASURE_SECONDS
            oom_watch().settle()
            for managed in self._versions.values():
                with self._apart("measure", managed.name, managed.version):
                    managed.measure()
                    managed.own_bytes()
        for action in decide(self._snapshot()):
            name = action.reference.name if isinstance(action, Publish) else action.name
            with self._apart(type(action).__name__.lower(), name, action.version):
                self._act(action, now)
        self._publish_table()

    def _look_at(self, managed: ManagedVersion, now: float) -> None:
        try:
            changes = managed.step(now, partial(self._start_engines, now), self.settings.load_seconds)
        except Exception as error:  # as of a report that cannot be read
            if managed.state != "loading":
                raise
            changes = managed.fail(describe_error(error), now)
        for change in changes:
            self._note(managed, change, now)
        if managed.state == "loading":
            managed.own_bytes()
        if managed.is_over(now) or self._is_due_again(managed, now):
            del self._versions[managed.name, managed.version]
            forget(managed.name, managed.version)

    @contextmanager
    def _apart(self, what: str, name: str, version: str) -> Iterator[None]:
        """Keep what goes wrong with one version from the others: it is logged, and tried again in the next turn."""
        try:
            yield
        except Exception as error:
            told = describe_error(error)
            if self._troubles.get((what, name, version)) != told:  # there are twenty turns a second
                logger.exception("could not %s %s/%s; it is tried again", what, name, version)
            self._troubles[what, name, version] = told
        else:
            self._troubles.pop((what, name, version), None)

    def _snapshot(self) -> Snapshot:
        view = self._watch.view
        self._live_versions.forget_all_but(view)
        return Snapshot(
            targets={key: found.version if found else None for key, found in view.targets.items()},
            live=self._live_versions.live,
            previous=self._live_versions.previous,
            states={key: held.state for key, held in self._versions.items() if held.state != "draining"},
            keep_previous=self.settings.keep_previous,
            keep_bytes=self.settings.keep_bytes,
            memory={key: held.memory_bytes for key, held in self._versions.items()},
            crashes={key: held.crashes for key, held in self._versions.items()},
        )

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Publish(reference, version):
                self._live_versions.publish(reference, self._versions[reference.name, version], self._watch.view, now)
            case Load(name, version):
                if (name, version) not in self._versions:  # else it is still draining: load it again once it has left
                    self._load((name, version))
            case GiveUp(name, version):
                held = self._versions[name, version]
                held.fail(f"its engines crashed {held.crashes} times in a row, the version before it serves again", now)
                logger.error("%s/%s: %s", name, version, held.error)
            case Unload(name, version):
                if self._watch.view.is_known:
                    logger.info("unloading %s/%s", name, version)
                    self._failed.pop((name, version), None)
                    self._versions[name, version].drain(now, self.settings.timeout_seconds + 5)
            case other:
                assert_never(other)

    def _load(self, key: VersionKey) -> None:
        failed = self._failed.get(key)
        attempt, error = (failed.attempt + 1, failed.error) if failed is not None else (1, "")
        logger.info("loading %s/%s, attempt %d", *key, attempt)
        fetching: Future[Fetched]
        resolved = self._resolved(key)
        cached = resolved is not None and is_cached(resolved, self.settings.registry)
        if failed is not None and failed.fetching is not None and not failed.fetching.done():
            fetching = failed.fetching  # it took longer than a load may take; another one would hang beside it
        elif resolved is not None:
            work = partial(self._fetch, resolved, self.settings.registry)
            fetching = (
                self._fetchers.submit(run_at_low_priority, work) if self._is_serving() else self._fetchers.submit(work)
            )
        else:
            fetching = Future()
            fetching.set_exception(EngineError("the registry no longer names it, and it is not in the cache"))
        self._versions[key] = ManagedVersion(*key, fetching, attempt=attempt, error=error, is_cached=cached)

    def _is_serving(self) -> bool:
        """Whether something is live, which loading may not starve."""
        return any(self._live_versions.live.values())

    def _resolved(self, key: VersionKey) -> ResolvedVersion | None:
        """Where the version's files are: by the registry, or by what was live before."""
        seen = (found for found in self._watch.view.targets.values() if found is not None)
        found = next((found for found in seen if (found.name, found.version) == key), None)
        return found or self._last_live.recall(Reference(key[0], version=key[1]))

    def _note(self, managed: ManagedVersion, change: EngineEvent, now: float) -> None:
        name, version = managed.name, managed.version
        task = managed.contract.task if managed.contract else ""
        match change:
            case "ready":
                self._failed.pop((name, version), None)
                managed.measure()
                restarts(name, version, task)  # from now on there is a series, so that a rate sees the first
                logger.info("%s/%s is ready after %.1f s", name, version, now - managed.began)
            case "failed":
                logger.error("%s/%s could not be loaded: %s", name, version, managed.error)
                self._failed[name, version] = managed
                if managed.is_damaged:
                    self._discard(managed)
                self._live_versions.fail(managed, self._watch.view, now)
            case "lost":
                fields = (name, version, managed.crashes, managed.error)
                logger.error("an engine of %s/%s ended, %d in a row; it is restarted: %s", *fields)
                if managed.is_out_of_memory:
                    self._make_room_for(managed, now)
                if any(engine.report.is_damaged for engine in managed.engines):
                    self._fetch_again(managed)
            case "restarted":
                restarts(name, version, task).inc()
            case other:
                assert_never(other)

    def _is_due_again(self, managed: ManagedVersion, now: float) -> bool:
        """Whether a version that failed to load may be tried again; one that crashed while live is not."""
        if managed.state != "failed" or (managed.name, managed.version) not in self._failed or managed.engines:
            return False
        others = [live for name, live in self._live_versions.live_keys() if name == managed.name]
        if managed.took_place or (managed.is_given_up and any(live != managed.version for live in others)):
            return False
        if managed.is_damaged and managed.is_cached and managed.attempt == 1:
            return True  # the copy here was damaged and is removed; the store's may be whole
        pause = backoff_seconds(self.settings.retry_seconds, managed.attempt, MAX_RETRY_SECONDS)
        return bool(now - managed.failed_at > self._spread(pause, managed.failed_at))

    def _start_engines(self, now: float, held: ManagedVersion) -> list[EngineProcess]:
        """Start them, or none yet where others have to leave first; raises EngineError where there is no memory."""
        if any(other.state in ("ready", "draining") for other in self._versions.values()):
            admission = self._admit(held, replace_live=self.settings.replace_live)
            if isinstance(admission, Refuse):
                helps = not isinstance(self._admit(held, replace_live=True), Refuse)
                raise EngineError(admission.reason + (REPLACE_ADVICE if helps else ""))
            if isinstance(admission, Wait):
                held.took_place |= any(key in self._live_versions.live_keys() for key in admission.evict)
                self._evict(admission.evict, f"so that there is memory for {held.name}/{held.version}", now)
                return []
        return self._start_on(self.settings.devices, held)

    def _admit(self, held: ManagedVersion, *, replace_live: bool) -> Admission:
        """Whether its engines may start. replace_live: whether the live version may leave for it."""
        evictable = self._evictable(held.name if replace_live else None)
        return admit_version(held, self._versions, evictable, len(self.settings.devices), self._limits())

    def _start_on(self, devices: Iterable[str], held: ManagedVersion) -> list[EngineProcess]:
        assert held.root is not None
        assert held.contract is not None
        return self._starter.start(
            devices, held.name, held.version, held.root, held.contract.digest, low_priority=self._is_serving()
        )

    def _evictable(self, replaced: str | None) -> list[VersionKey]:
        """The versions that may leave where memory is short. replaced: the model whose live version may."""
        wanted = {(found.name, found.version) for found in self._watch.view.targets.values() if found is not None}
        return find_evictable(self._versions, self._live_versions.live_keys(), wanted, replaced)

    def _evict(self, keys: Iterable[VersionKey], why: str, now: float) -> None:
        for key in keys:
            logger.warning("%s/%s leaves, %s", *key, why)
            self._versions[key].drain(now, self.settings.timeout_seconds + 5)

    def _discard(self, managed: ManagedVersion) -> None:
        """Remove the version's files from the cache, as they are not those that were logged."""
        if managed.root is not None:
            with suppress(OSError, InvalidSetting):
                discard(managed.root, self.settings.registry)

    def _fetch_again(self, managed: ManagedVersion) -> None:
        """Replace the files of a version whose engine could not be restarted with them."""
        resolved = self._resolved((managed.name, managed.version))
        if resolved is None or (managed.fetching is not None and not managed.fetching.done()):
            return
        self._discard(managed)
        logger.warning("the files of %s/%s changed in the cache; they are fetched again", managed.name, managed.version)
        managed.fetching = self._fetchers.submit(self._fetch, resolved, self.settings.registry)

    def _make_room_for(self, live: ManagedVersion, now: float) -> None:
        """Memory ran out under a version that serves: whatever loads beside it or is only kept warm ends."""
        why = f"memory ran out beside {live.name}/{live.version}"
        for other in list(self._versions.values()):
            if other.state == "loading" and other.engines:
                other.is_given_up = True
                for change in other.fail(f"given up, as {why}: {live.error}", now):
                    self._note(other, change, now)
        self._evict(self._evictable(None), f"as {why}", now)

    def _publish_table(self) -> None:
        view = self._watch.view
        models: dict[str, ModelEntry] = {}
        leaving = [name for name, _ in self._versions]  # one that is deployed no more finishes what it has
        for name in dict.fromkeys((*(reference.name for reference in view.targets), *leaving, *view.refused)):
            versions = {version: held.entry() for (owner, version), held in self._versions.items() if owner == name}
            models[name] = self._live_versions.describe(name, view, versions)
            start_counting(name)
        has_started = self._startup.look(view, self._live_versions.live, self._has_failed, time.monotonic())
        table = Table(models=models, registry_error=view.error, is_known=view.is_known, has_started=has_started)
        if table == self._table:
            return
        try:
            self._file.write(table)
        except OSError as error:  # a full disk: fronts go on by the last table, and it is tried again each turn
            if not self._is_unwritten:
                logger.error("the routing table cannot be written, the last one holds: %s", error)
            self._is_unwritten = True
            return
        self._table, self._is_unwritten = table, False

    def _has_failed(self, reference: Reference) -> bool:
        target = self._watch.view.targets.get(reference)
        failed = self._failed.get((target.name, target.version)) if target is not None else None
        return failed is not None and failed.has_failed_for_good

    def _adopt(self) -> None:
        """Go on from where a manager that was killed has left; its fronts must not see an emptier table meanwhile."""
        left, self._versions = enter(self.settings.run)
        self._live_versions.adopt(left, self._versions)
        self._startup.is_over = left.has_started
        self._watch.expect(self._live_versions.live)
        for (name, version), held in self._versions.items():
            before = left.models[name].versions.get(version) if name in left.models else None
            if before is not None and before.state == "draining":
                held.drain(time.monotonic(), self.settings.timeout_seconds + 5)
            else:
                self._complete(held)
        self._publish_table()

    def _complete(self, held: ManagedVersion) -> None:
        """Start the engines that an adopted version lacks: they had not reported yet when the previous manager died."""
        missing = list(self.settings.devices)
        for engine in held.engines:
            with suppress(ValueError):
                missing.remove(engine.order.device)
        if missing and held.root is not None:
            with suppress(OSError):  # a full disk: fewer engines are better than none
                started = self._start_on(missing, held)
                for engine in started:
                    engine.was_ready = held.state == "ready"  # then one that fails is restarted, the others serve on
                held.engines += started

    def _shut_down(self) -> None:
        """Fronts first: their accepted requests need the engines. Their lock is free once the last one has ended."""
        self._watch.close()
        deadline = time.monotonic() + self.settings.grace_seconds
        with suppress(OSError), (self.settings.run / FRONTS_LOCK).open("a") as lock:  # the folder may be gone
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._file.beat()
                    time.sleep(STEP_SECONDS)
        for managed in self._versions.values():
            managed.kill()
        while any(engine.is_running() for managed in self._versions.values() for engine in managed.engines):
            time.sleep(STEP_SECONDS)  # at most KILL_SECONDS
        self._template.close()
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        remove(self.settings.run)
