"""The manager: reads the registry, decides by the policy, starts and stops engines, publishes the routing table.

One loop in one thread; what blocks (MLflow, downloads, digests) runs in a small pool. It is the table's only writer.
"""

import fcntl
import logging
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from registry.cache import fetch
from registry.errors import NotFound
from registry.references import Reference
from registry.versions import ResolvedVersion, Versions
from serving.errors import EngineError
from serving.holding import Holding
from serving.metering import instruments
from serving.policy import Action, Load, Publish, Snapshot, VersionKey, decide
from serving.report import EngineOrder
from serving.settings import ServingSettings
from serving.table import FRONTS_LOCK, ModelEntry, Table, TableFile

logger = logging.getLogger("headwaiter.manager")

STEP_SECONDS = 0.05
BEAT_SECONDS = 1.0
RETRY_SECONDS = 30.0
"""A version that failed to load is tried again after this long, if it is still wanted."""


class Manager:
    """Keeps what is served equal to what the registry says. `run` blocks; `stop` may be called from another thread."""

    def __init__(self, settings: ServingSettings) -> None:
        """Construction is cheap. Raises EngineError if the settings name no model."""
        if not settings.models:
            raise EngineError("nothing to serve: name models on the command line, or in HEADWAITER_MODELS")
        self.settings = settings
        self._file = TableFile(settings.run)
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="headwaiter-manager")
        self._stop = threading.Event()
        self._targets: dict[Reference, ResolvedVersion | None] = dict.fromkeys(settings.models)
        self._problems: dict[Reference, str] = {}
        self._live: dict[Reference, str | None] = dict.fromkeys(settings.models)
        self._previous: dict[Reference, list[str]] = {reference: [] for reference in settings.models}
        self._moved: dict[Reference, float] = {}
        self._holdings: dict[VersionKey, Holding] = {}
        self._resolving: Future[None] | None = None
        self._registry_error = ""
        self._versions: Versions | None = None
        self._engines_started = 0
        self._table: Table | None = None

    def run(self) -> None:
        """Serve until `stop`; then wait for the fronts to leave, and end the engines."""
        shutil.rmtree(self.settings.run / "engines", ignore_errors=True)
        (self.settings.run / "engines").mkdir(parents=True)
        self._publish_table()
        next_poll = next_beat = 0.0
        try:
            while not self._stop.is_set():
                now = time.monotonic()
                if now >= next_beat:
                    self._file.beat()
                    next_beat = now + BEAT_SECONDS
                if now >= next_poll and (self._resolving is None or self._resolving.done()):
                    self._resolving = self._pool.submit(self._resolve)
                    next_poll = now + self.settings.poll_seconds
                self.step(now)
                self._stop.wait(STEP_SECONDS)
        finally:
            self._shut_down()

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()

    def step(self, now: float) -> None:
        """One turn: look at every version, act, publish."""
        for holding in list(self._holdings.values()):
            for change in holding.step(now, self._orders, self.settings.load_seconds):
                self._note(holding, change, now)
            if holding.is_over(now) or (holding.state == "failed" and now - holding.failed_at > RETRY_SECONDS):
                del self._holdings[holding.name, holding.version]
        for action in decide(self._snapshot()):
            self._act(action, now)
        self._publish_table()

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            targets={key: found.version if found else None for key, found in self._targets.items()},
            live=self._live,
            previous=self._previous,
            states={key: held.state for key, held in self._holdings.items() if held.state != "draining"},
            keep_previous=self.settings.keep_previous,
        )

    def _act(self, action: Action, now: float) -> None:
        if isinstance(action, Load):
            if (action.name, action.version) in self._holdings:
                return  # it is still draining: load it again once it has left
            resolved = next(
                found
                for found in self._targets.values()
                if found is not None and (found.name, found.version) == (action.name, action.version)
            )
            logger.info("loading %s/%s", action.name, action.version)
            fetching = self._pool.submit(fetch, resolved, self.settings.registry)
            self._holdings[action.name, action.version] = Holding(action.name, action.version, fetching)
        elif isinstance(action, Publish):
            before = self._live[action.reference]
            self._live[action.reference] = action.version
            if before is not None:
                earlier = [
                    version for version in self._previous[action.reference] if version not in (before, action.version)
                ]
                self._previous[action.reference] = [before, *earlier]
            logger.info("%s is served by version %s, before: %s", action.reference, action.version, before)
            instruments().swap_total.labels(action.reference.name, "success").inc()
            seconds = now - self._moved.get(action.reference, now)
            instruments().swap_duration_seconds.labels(action.reference.name).observe(seconds)
        else:
            logger.info("unloading %s/%s", action.name, action.version)
            self._holdings[action.name, action.version].drain(now, self.settings.timeout_seconds + 5)

    def _note(self, holding: Holding, change: str, now: float) -> None:
        name, version = holding.name, holding.version
        if change == "ready":
            logger.info("%s/%s is ready after %.1f s", name, version, now - holding.began)
        elif change == "failed":
            logger.error("%s/%s could not be loaded: %s", name, version, holding.error)
            instruments().swap_total.labels(name, "failure").inc()
        elif change == "lost":
            logger.error("an engine of %s/%s ended; it is restarted", name, version)
        else:
            task = holding.contract.task if holding.contract else ""
            instruments().engine_restarts_total.labels(name, version, task).inc()

    def _resolve(self) -> None:
        """Ask the registry for every reference; what cannot be read keeps its last answer. Runs in the pool."""
        error = ""
        for reference in self.settings.models:
            try:
                if self._versions is None:
                    self._versions = Versions(self.settings.registry)
                found = self._versions.resolve(reference)
            except NotFound as problem:
                self._problems[reference] = str(problem)
                continue
            except Exception as problem:  # a registry may fail in any way; what is loaded goes on serving
                error = str(problem)
                continue
            self._problems.pop(reference, None)
            if found != self._targets[reference]:
                self._moved[reference] = time.monotonic()
                self._targets[reference] = found
        if error != self._registry_error:
            if error:
                logger.warning("the registry cannot be read, serving goes on: %s", error)
            else:
                logger.info("the registry can be read again")
        self._registry_error = error

    def _orders(self, name: str, version: str, root: Path) -> list[EngineOrder]:
        orders = []
        for device in self.settings.devices:
            self._engines_started += 1
            base = self.settings.run / "engines" / f"{time.monotonic_ns() // 1_000_000 % 10**8}-{self._engines_started}"
            orders.append(
                EngineOrder(
                    model=name,
                    version=version,
                    root=str(root),
                    device=device,
                    dtype=self.settings.dtype,
                    address=f"ipc://{base}.sock",
                    report=f"{base}.json",
                    threads=self.settings.threads,
                )
            )
        return orders

    def _publish_table(self) -> None:
        models: dict[str, ModelEntry] = {}
        for name in dict.fromkeys(reference.name for reference in self.settings.models):
            references = [reference for reference in self.settings.models if reference.name == name]
            models[name] = ModelEntry(
                live=self._live[references[0]],
                aliases={reference.alias: self._live[reference] for reference in references if reference.alias},
                versions={version: held.entry() for (owner, version), held in self._holdings.items() if owner == name},
                error="; ".join(self._problems[reference] for reference in references if reference in self._problems),
            )
        table = Table(models=models, registry_error=self._registry_error)
        if table != self._table:
            self._file.write(table)
            self._table = table

    def _shut_down(self) -> None:
        """Fronts first: their accepted requests need the engines. Their lock is free once the last one has ended."""
        deadline = time.monotonic() + self.settings.grace_seconds
        with (self.settings.run / FRONTS_LOCK).open("a") as lock:
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._file.beat()
                    time.sleep(STEP_SECONDS)
        for holding in self._holdings.values():
            holding.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self.settings.run, ignore_errors=True)
