"""Fakes around the real manager: a registry, artifacts, engine processes and a clock, all controlled by the test.

No thread and no process is started, and no real time passes.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from registry.cache_folder import Held
from registry.contract import Derived
from registry.errors import DigestMismatch, NotFound, RegistryUnavailable
from registry.references import Reference, ResolvedVersion
from registry.rollout.control import Rollouts
from registry.settings import RegistrySettings
from serving.manager import recovery
from serving.manager.engine_process import GROWTH_BYTES, EngineProcess
from serving.manager.managed_version import Fetched
from serving.manager.manager import Manager
from serving.manager.memory_reading import Memory
from serving.manager.registry_watch import RegistryWatch
from serving.manager.rollout.keeper import RolloutKeeper
from serving.runtime.control_groups import ControlGroups
from serving.runtime.limits import Limits, OomWatch
from serving.settings import ServingSettings
from serving.wire.engine_orders import EngineOrder, EngineReport, order_path, read_report
from serving.wire.report_file import write_report
from serving.wire.routing_table import Table, TableFile
from serving.wire.version_state import State
from tests.contracts import CLASSIFIER

ENGINE_BYTES = 100 << 20


def exactly(seconds: float, began: float = 0.0) -> float:
    """A pause without jitter."""
    return seconds


class InlineExecutor(Executor):
    """Runs each function in `submit`, on the calling thread."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        run_into(future, partial(work, *args, **kwargs))
        return future


def run_into(future: "Future[Any]", work: Callable[[], Any]) -> None:
    """Run `work`; the future gets what it returns or raises."""
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)


class RegistryExecutor(InlineExecutor):
    """Runs a request to the registry in `submit`, or in `World.answer` where the registry is silent."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Return the answer, or what will have it."""
        if not self._world.is_silent:
            return super().submit(work, *args, **kwargs)
        future: Future[Any] = Future()
        self._world.asked.append((future, partial(work, *args, **kwargs)))
        return future


@dataclass
class FakeProcess:
    """Stands in for the process of an engine."""

    pid: int
    order: EngineOrder
    returncode: int | None = None
    asked_to_leave: bool = False

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self.returncode

    def kill(self) -> None:
        """End with the exit status of SIGKILL."""
        if self.returncode is None:
            self.returncode = -9

    def send_signal(self, sig: int, /) -> None:
        """Note that the engine was asked to leave; it ends in `World.let_engines_go_on`."""
        self.asked_to_leave = True

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit status. The process must have ended already."""
        assert self.returncode is not None
        return self.returncode


class FakeControlGroups(ControlGroups):
    """Control groups whose figures are those of a `World`."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        object.__setattr__(self, "world", world)

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for want of memory."""
        world: World = self.world  # type: ignore[attr-defined]
        return world.oom_kills

    def memory_bytes(self) -> int:
        """Return the memory limit."""
        world: World = self.world  # type: ignore[attr-defined]
        return world.memory_bytes


@dataclass
class World:
    """The registry, the machine and the clock of the manager.

    now: the time in seconds. is_silent: whether the registry does not answer yet. asked: what it has not answered.
    targets: alias → version in the registry. unfetchable: versions whose download fails.
    unloadable: versions whose engine fails. damaged: versions whose files in the store are not those that were logged.
    fetched: (now, version) of every download that was begun. memory_bytes: the machine's memory; each engine takes
    ENGINE_BYTES. oom_kills: processes killed by the kernel for want of memory.
    """

    now: float = 1_000_000.0
    is_down: bool = False
    is_silent: bool = False
    asked: list[tuple["Future[Any]", Callable[[], Any]]] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)
    unfetchable: set[str] = field(default_factory=set)
    unloadable: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    processes: list[FakeProcess] = field(default_factory=list)
    fetched: list[tuple[float, str]] = field(default_factory=list)
    memory_bytes: int = 1 << 40
    oom_kills: int = 0

    @cached_property
    def oom(self) -> OomWatch:
        """Tells whether the kernel killed an engine for want of memory."""
        return OomWatch(FakeControlGroups(self))

    def limits(self) -> Limits:
        """Return what `read_limits` would find on this machine."""
        size, taken = self.memory_bytes, ENGINE_BYTES * len(self.running())
        return Limits(
            cores=2,
            machine_cores=64,
            cores_by="control group",
            memory_bytes=size,
            machine_memory_bytes=1 << 40,
            memory_by="control group",
            available_bytes=max(0, size - taken),
            oom_kills=self.oom_kills,
        )

    def run_out_of_memory(self, version: str) -> None:
        """Kill the engines of the version, as the kernel does when no memory is free."""
        for process in self.running():
            if process.order.version == version:
                process.kill()
                self.oom_kills += 1

    def answer(self) -> None:
        """Let the registry answer what it was asked, and answer at once from now on."""
        self.is_silent = False
        asked, self.asked = self.asked, []
        for future, work in asked:
            run_into(future, work)

    def resolve(self, reference: Reference) -> ResolvedVersion:
        """Do what `Versions.resolve` does."""
        if self.is_down:
            raise RegistryUnavailable("it is down")
        version = reference.version or self.targets.get(reference.alias or "")
        if version is None:
            raise NotFound(f"the registry has no {reference}")
        return ResolvedVersion(reference.name, version, f"models:/m-{version}", version)

    def deployed(self) -> list[Reference]:
        """Return the references of `Versions.deployed`: none."""
        return []

    def begin(self, order: EngineOrder) -> FakeProcess:
        """Start the process of an engine."""
        self.processes.append(FakeProcess(len(self.processes) + 10**9, order))
        return self.processes[-1]

    def running(self) -> list[FakeProcess]:
        """Return the processes that have not ended."""
        return [process for process in self.processes if process.returncode is None]

    def answering(self) -> set[str]:
        """Return the versions that have a ready engine."""
        reports = [(process, read_report(Path(process.order.report))) for process in self.running()]
        return {process.order.version for process, report in reports if report == ready(process)}

    def let_engines_go_on(self) -> None:
        """Let each loading engine become ready or fail; end those asked to leave and those without an order."""
        for process in self.running():
            if process.asked_to_leave or not Path(order_path(process.order.report)).is_file():
                process.returncode = 0
            elif process.order.version in self.unloadable or not Path(process.order.root, "whole").exists():
                is_damaged = process.order.version not in self.unloadable
                error = "DigestMismatch" if is_damaged else "out of memory"
                report = EngineReport(pid=process.pid, state="failed", error=error, is_damaged=is_damaged)
                write_report(Path(process.order.report), report)
                process.returncode = 1
            else:
                write_report(Path(process.order.report), ready(process))


def ready(process: FakeProcess) -> EngineReport:
    """Return the report of an engine that has loaded."""
    return EngineReport(pid=process.pid, state="ready", device="cpu")


class FakeEngineProcess(EngineProcess):
    """The real `EngineProcess`, with a fake process."""

    world: ClassVar[World]

    def __init__(self, order: EngineOrder) -> None:
        super().__init__(order)
        self._oom = self.world.oom

    def start(self) -> None:
        """Write the order and start the fake process."""
        Path(self.order.report).unlink(missing_ok=True)
        write_report(Path(order_path(self.order.report)), self.order)
        self._started = self.world.now
        self.report = EngineReport(pid=0, state="loading")
        self._process = self.world.begin(self.order)

    @classmethod
    def adopt(cls, order: EngineOrder, report: EngineReport) -> "FakeEngineProcess":
        """Take over the fake process that wrote the report."""
        engine = cls(order)
        engine.report, engine.was_ready = report, report.state == "ready"
        engine._started = engine._ready_at = cls.world.now
        engine._process = next((process for process in cls.world.running() if process.pid == report.pid), None)
        if engine._process is None:
            engine._end("the engine ended", engine._started)
        return engine

    def _memory(self) -> Memory:
        """Return what a process that runs takes until it serves; then it is to take ENGINE_BYTES."""
        return Memory(ENGINE_BYTES - GROWTH_BYTES) if self.is_running() else Memory()


class Server:
    """A manager among fakes, and the managers that follow it after `restart`.

    models: the references that are served. keep_previous: the setting of that name.
    """

    def __init__(
        self,
        models: tuple[Reference, ...],
        keep_previous: int,
        *,
        replace_live: bool = False,
        rollouts: Rollouts | None = None,
        **fields: Any,
    ) -> None:
        """rollouts: of the registry, where some are to be followed. fields: of the settings."""
        self._rollouts = rollouts
        self.home = Path(tempfile.mkdtemp(prefix="hw"))
        self.world = World()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(FakeEngineProcess, "world", self.world, raising=False)
        self._patch.setattr(recovery, "EngineProcess", FakeEngineProcess)
        run = self.home / "run" / "1"
        run.mkdir(parents=True)
        registry = RegistrySettings(self.home, f"sqlite:///{self.home / 'mlflow.db'}")
        self.settings = ServingSettings(
            *(registry, models, run),
            keep_previous=keep_previous,
            replace_live=replace_live,
            poll_seconds=1.0,
            load_seconds=1e12,
            **fields,
        )
        self.manager = self._start()

    def close(self) -> None:
        """Stop the manager and remove its files."""
        self._end()
        self._patch.undo()
        shutil.rmtree(self.home)

    def step(self, seconds: float = 0.05) -> Table:
        """Advance the clock, run one step of the manager, and return the routing table that it published."""
        self.world.now += seconds
        self.manager.step(self.world.now)
        return self.table()

    def table(self) -> Table:
        """Return the routing table as fronts read it."""
        return TableFile(self.settings.run).read()

    def settle(self, seconds: float = 1.1, turns: int = 5) -> Table:
        """Run `turns` steps, after each of which engines load or leave; return the routing table."""
        for _ in range(turns):
            self.step(seconds)
            self.world.let_engines_go_on()
        return self.step()

    def move(self, alias: str, version: str) -> Table:
        """Move the alias and run steps until engines had the time to load."""
        self.world.targets[alias] = version
        return self.settle()

    def restart(self) -> None:
        """End the manager as SIGKILL would, and start the next one."""
        self._end()
        self.manager = self._start()

    def stop_all(self) -> None:
        """End the server, so that the next manager finds no engine and no table."""
        for process in self.world.running():
            process.kill()
        shutil.rmtree(self.settings.run)
        self.settings.run.mkdir()

    def clear_cache(self) -> None:
        """Remove the artifacts that were fetched."""
        shutil.rmtree(self.home / "cache")

    def serves(self, alias: str) -> str | None:
        """Return the version that the alias serves."""
        entry = self.table().models.get("m")
        return entry.aliases.get(alias) if entry is not None else None

    def states(self) -> dict[str, State]:
        """Return the state of each version."""
        entry = self.table().models.get("m")
        return {version: found.state for version, found in entry.versions.items()} if entry is not None else {}

    def _start(self) -> Manager:
        connect: Any = lambda: self.world  # noqa: E731
        watch = RegistryWatch(
            self.settings,
            lambda: None,
            connect,
            make_pool=lambda *_: RegistryExecutor(self.world),
            spread=exactly,
        )
        manager = Manager(
            self.settings,
            fetch=self._fetch,
            engine=FakeEngineProcess,
            watch=watch,
            limits=self.world.limits,
            spread=exactly,
            rollouts=self._make_keeper if self._rollouts is not None else None,
        )
        manager._loader.close()
        manager._loader.fetchers = InlineExecutor()
        manager._adopt()
        return manager

    def _make_keeper(self, wake: Any) -> RolloutKeeper:
        connect: Any = lambda: self._rollouts  # noqa: E731
        return RolloutKeeper(self.settings, wake, connect, make_pool=lambda *_: InlineExecutor(), spread=exactly)

    def _end(self) -> None:
        self.manager._watch.close()

    def _fetch(self, version: ResolvedVersion, settings: RegistrySettings) -> Fetched:
        self.world.fetched.append((self.world.now, version.version))
        if version.version in self.world.unfetchable:
            raise DigestMismatch("a file changed after logging")
        root = self.home / "cache" / version.version
        is_cached = root.exists()
        root.mkdir(parents=True, exist_ok=True)
        contract = msgspec.structs.replace(CLASSIFIER, derived=Derived(digest=version.version, notes=()))
        record = msgspec.structs.replace(CLASSIFIER, torch=version.version).to_record()
        (root / "MLmodel").write_text(json.dumps({"flavors": {"headwaiter": {"contract": record}}}))
        if version.version not in self.world.damaged and not is_cached:
            (root / "whole").touch()
        return Held.take(root), contract
