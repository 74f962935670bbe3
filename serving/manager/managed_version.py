"""One version in the manager, from its download to the end of its engines."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from registry.cache_folder import Held
from registry.contract import Contract
from registry.errors import DigestMismatch, RegistryUnavailable
from registry.redaction import describe_error
from registry.settings import InvalidSetting
from serving.manager.engine_process import EngineEvent, EngineProcess
from serving.manager.memory_budget import Footprint, weights_bytes
from serving.tasks import get_task
from serving.wire.routing_table import EngineEntry, VersionEntry
from serving.wire.version_state import State, VersionKey, check_transition

Fetched = tuple[Held, Contract]
"""The verified artifact, held in the cache, and its contract."""

StartEngines = Callable[["ManagedVersion"], list[EngineProcess]]
"""The version → its engines, started: one a device; none where they have to wait for memory."""

MEMORY_STEP_BYTES = 1 << 20
"""Memory is shown in whole MiB, so that the table does not change all the time."""


SOON_SECONDS = 10.0
"""A version that has been leaving for longer is no longer waited for: others leave as well. Untuned."""
WRITING_SECONDS = 600.0
"""How long an engine that generates text may take to finish; far longer than a text of the default length takes."""


@dataclass
class ManagedVersion:
    """One version. attempt: counts from 1 while it is tried again and again. failed_at: when, in monotonic seconds.

    began: when it began to load, in monotonic seconds; later where it had to wait for memory. fetching: the download,
    until it is done. held: keeps its files in the cache. error: why it failed, or why the attempt before this one did,
    or why an engine of it is being restarted: once ready it stays so meanwhile. is_given_up: whether it failed because
    memory ran out, and is not to be tried again beside a live version. took_place: whether the live version left so
    that there is memory for this one. is_cached: whether an earlier load had fetched its files. is_damaged: whether it
    failed because one of them was not the logged one. weights_bytes: of its files. need_bytes: memory that its engines
    were expected to take, 0 without an estimate. may_recover: of a failed one, whether the cause may be the store or
    the disk, and not the version. waits_since: when it began to wait for memory, 0 if it does not. started_at: when its
    engines were started. loaded_at, load_seconds: when it became ready, and how long that took. is_first: whether it
    loads as the server starts, and is unloaded if there is no room. is_on_demand: whether it is loaded for requests
    that wait; where that fails it is unloaded again. returns: of a draining one, whether it is unloaded once it has
    left. unloaded_at: since when no new request gets to it.
    """

    name: str
    version: str
    fetching: "Future[Fetched] | None"
    attempt: int = 1
    error: str = ""
    state: State = "loading"
    began: float = field(default_factory=time.monotonic)
    failed_at: float = 0.0
    held: Held | None = None
    root: Path | None = None
    contract: Contract | None = None
    engines: list[EngineProcess] = field(default_factory=list)
    drain_until: float = 0.0
    memory_bytes: int = 0
    weights_bytes: int = 0
    need_bytes: int = 0
    is_given_up: bool = False
    took_place: bool = False
    is_cached: bool = False
    is_damaged: bool = False
    may_recover: bool = False
    waits_since: float = 0.0
    started_at: float = 0.0
    loaded_at: float = 0.0
    load_seconds: float = 0.0
    is_first: bool = False
    is_on_demand: bool = False
    returns: bool = False
    unloaded_at: float = 0.0

    @classmethod
    def adopt(cls, root: Path, contract: Contract, engines: Sequence[EngineProcess]) -> "ManagedVersion":
        """A version whose engines another manager started; ready if each of them ever was."""
        order = engines[0].order
        held = cls(order.model, order.version, None, root=root, contract=contract, engines=list(engines))
        with suppress(DigestMismatch):  # its engines have opened what they need
            held.held = Held.take(root)
        held.weights_bytes = weights_bytes(root)
        if all(engine.was_ready for engine in engines):
            held.loaded_at = time.monotonic()
            held._become("ready")
        return held

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the kernel killed an engine of it because memory ran out."""
        return any(engine.is_out_of_memory for engine in self.engines)

    @property
    def crashes(self) -> int:
        """Crashes in a row of the engine that crashed most."""
        return max((engine.crashes for engine in self.engines), default=0)

    @property
    def has_failed_for_good(self) -> bool:
        """Whether its files or its engines were at fault, or what may recover has failed twice."""
        may_recover = self.may_recover or (self.is_damaged and self.is_cached)
        return self.state == "failed" and (self.attempt > 1 or not may_recover)

    @property
    def is_unloaded(self) -> bool:
        """Whether it is loaded once it is asked for."""
        return self.state == "unloaded"

    @property
    def is_settled(self) -> bool:
        """Whether it stays as it is unless an engine ends or somebody asks for it."""
        if self.state == "ready":
            return all(engine.answers for engine in self.engines)
        return self.state == "unloaded" or (self.state == "failed" and not self.engines)

    @property
    def awaits_fork(self) -> bool:
        """Whether an engine of it is asked for at the template, which has not forked it yet."""
        return any(engine.is_running() and not engine.pid for engine in self.engines)

    def step(self, now: float, start: StartEngines, load_seconds: float) -> list[EngineEvent]:
        """Look at the fetch and at the engines; returns what happened, "ready" once all engines are."""
        if self.state == "failed":
            self._forget_ended()
        if self.state in ("failed", "draining", "unloaded"):
            return []
        if self.state == "loading" and not self.engines and (self.fetching is None or self.fetching.done()):
            try:
                self._take_files()
                self.engines, self.started_at = start(self), now
                self.began = self.began if self.engines else now  # to wait for memory is not to load
                if self.is_unloaded:
                    return []
            except Exception as error:  # whatever was raised, it is this version's cause of failure
                self.may_recover = isinstance(error, RegistryUnavailable | OSError | InvalidSetting)
                return self.fail(describe_error(error), now)
        happened = []
        files_are_coming = self.fetching is not None and not self.fetching.done()
        for engine in self.engines:
            if (change := engine.poll(now, files_are_coming=files_are_coming)) is not None:
                happened.append(change)
                if change == "lost" and engine.is_poisoned:
                    self._forgive_crash()
        if self.state == "ready":
            for engine in self.engines:
                engine.end_late_load(now, load_seconds)
            self.error = next((engine.report.error for engine in self.engines if engine.report.state != "ready"), "")
            return [change for change in happened if change != "ready"]
        if "failed" in happened:
            self.is_given_up = self.is_out_of_memory
            self.is_damaged = any(engine.report.is_damaged for engine in self.engines)
            return self.fail(next(engine.report.error for engine in self.engines if engine.report.error), now)
        if now - self.began > load_seconds:
            return self.fail(f"loading took longer than HEADWAITER_LOAD_SECONDS={load_seconds:g}", now)
        if self.engines and all(engine.was_ready for engine in self.engines):
            self._become("ready")
            self.error, self.loaded_at, self.load_seconds = "", now, now - self.started_at
            return ["ready"]
        return []

    def fail(self, error: str, now: float) -> list[EngineEvent]:
        """Keep the cause, end the engines, whose ends `step` notes; returns ["failed"]."""
        self._become("failed")
        self.error, self.failed_at = error, now
        self.kill()
        self._forget_ended()
        self.held = None
        return ["failed"]

    def unload(self, now: float) -> None:
        """Have no engine until somebody asks for it. It must have none, or have left."""
        self._become("unloaded")
        self.fetching = self.held = None
        self.error, self.attempt, self.memory_bytes = "", 1, 0
        self.unloaded_at = self.unloaded_at or now

    def drain(self, now: float, seconds: float, *, returns: bool = False) -> None:
        """Take no new requests; the engines leave once what they have is answered, at most `seconds` later.

        returns: whether it is unloaded then. Streams have no deadline once they have begun; so an engine that writes
        texts has longer.
        """
        self._become("draining")
        self.returns, self.unloaded_at = returns, now
        writes = self.contract is not None and get_task(self.contract.task).generates
        self.drain_until = now + (max(seconds, WRITING_SECONDS) if writes else seconds)
        if self.fetching is not None:
            self.fetching.cancel()
        for engine in self.engines:
            engine.stop()

    def leaves_soon(self, now: float) -> bool:
        """Whether it drains and may be waited for. One that writes texts may take minutes."""
        return self.state == "draining" and now - self.unloaded_at < SOON_SECONDS

    def is_over(self, now: float) -> bool:
        """Whether a draining version has left; past its time it is made to."""
        if self.state != "draining":
            return False
        is_running = any(engine.is_running() for engine in self.engines)
        if not is_running or now > self.drain_until:
            self.kill()
        if not is_running:
            self._forget_ended()
        return not is_running

    def kill(self) -> None:
        """End its engines now; does not wait for their ends."""
        for engine in self.engines:
            engine.kill()

    def footprints(self) -> list[Footprint]:
        """The peak memory of each of its engines, once it has loaded."""
        loaded = [engine for engine in self.engines if engine.was_ready and engine.peak_bytes]
        return [Footprint(engine.peak_bytes, self.weights_bytes) for engine in loaded]

    def own_bytes(self) -> int:
        """The host memory that its engines take now and would free; to be called now and then for `footprints`."""
        return sum(engine.measure() for engine in self.engines)

    def peak_bytes(self) -> int:
        """The most host memory that its engines have taken; cheaper than `own_bytes`, which reads it."""
        return sum(engine.peak_bytes or engine.measure() for engine in self.engines)

    def returning_bytes(self) -> int:
        """The host memory that its engines will take again which ended and are being restarted."""
        returning = [engine for engine in self.engines if engine.was_ready and engine.report.state != "ready"]
        return sum(max(0, engine.peak_bytes - engine.measure()) for engine in returning)

    def measure(self) -> None:
        """Measure the memory of its engines."""
        self.memory_bytes = sum(engine.memory_bytes() for engine in self.engines) & -MEMORY_STEP_BYTES

    def entry(self) -> VersionEntry:
        """Its entry in the routing table."""
        return VersionEntry(
            state=self.state,
            error=self.error,
            attempt=self.attempt,
            root=str(self.root or ""),
            contract=self.contract,
            memory_bytes=self.memory_bytes,
            restarts=sum(engine.restarts for engine in self.engines),
            on_demand=self.returns or self.state == "unloaded" or (self.state == "loading" and self.is_on_demand),
            load_seconds=self.load_seconds,
            engines=tuple(
                EngineEntry(
                    address=engine.order.address,
                    pid=engine.pid,
                    accepting=not engine.is_stopping,
                    **engine.report.properties(),
                )
                for engine in self.engines
                if engine.answers
            ),
        )

    def _forgive_crash(self) -> None:
        """A row that ended an engine alone had ended one before, beside others: that was no crash of the version's."""
        worst = max(self.engines, key=lambda engine: engine.crashes)
        worst.crashes = max(0, worst.crashes - 1)

    def _forget_ended(self) -> None:
        running = [engine for engine in self.engines if engine.is_running()]
        for engine in self.engines:
            if engine not in running:
                engine.remove_beats()
        self.engines = running

    def _take_files(self) -> None:
        """Note what was fetched; raises what the fetch raised."""
        if self.fetching is not None:
            done, self.fetching = self.fetching, None
            self.held, self.contract = done.result()
            self.root = self.held.root
            self.weights_bytes = weights_bytes(self.root)

    def _become(self, state: State) -> None:
        self.state = check_transition(self.state, state)


ManagedVersions = Mapping[VersionKey, ManagedVersion]
